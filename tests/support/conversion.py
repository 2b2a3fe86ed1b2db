"""Tiny checkpoints, and the GGUF files they become."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import Conversion, plan_conversion, read_numbers, stream
from hubquant.gguf_file import GGUFWriter, TensorEntry, plan_layout
from hubquant.mix.storage import storage_type
from hubquant.models.tiny import build
from hubquant.quants import quantize

Weights = dict[str, torch.Tensor]


def build_uneven(family: str, folder: Path, **config: Any) -> Path:
    """A tiny model whose norms are not all ones and whose biases are not all zeros."""
    return edit_weights(build(family, folder, **config), uneven)


def uneven(weights: Weights) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, x in weights.items():
        if not x.is_floating_point() and x.dim() == 2:  # experts that tokens choose, of which there are four at least
            weights[name] = (torch.arange(len(x))[:, None] + torch.arange(x.shape[1])) % 4
        elif x.is_floating_point() and (x.dim() == 1 or name.endswith(".ape")):
            weights[name] = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def edit_weights(folder: Path, edit: Callable[[Weights], None]) -> Path:
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def configure(folder: Path, **changes: Any) -> Path:
    """Change settings of a config.json; ``...`` removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, relative to the largest value expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """The same tensors under the same names, to the last bit and in the same dtypes."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype, name
        assert torch.equal(found[name], x), name


def plan(folder: Path) -> Conversion:
    return plan_conversion(folder, Checkpoint.from_folder(folder))


def write_gguf(folder: Path, path: Path, type: str) -> Conversion:
    """Convert a checkpoint; matrices get ``type``, the rest and those that llama.cpp reads as float get F32."""
    checkpoint = Checkpoint.from_folder(folder)
    conversion = plan_conversion(folder, checkpoint)
    write_conversion(conversion, checkpoint, path, type)
    return conversion


def write_conversion(conversion: Conversion, checkpoint: Checkpoint, path: Path, type: str) -> None:
    """As :func:`write_gguf` of what is planned."""
    types = {name: storage_type(name, shape, type) for name, shape in conversion.shapes.items()}
    entries = [TensorEntry(name, shape, types[name]) for name, shape in conversion.shapes.items()]
    metadata = conversion.metadata | read_numbers(conversion, checkpoint)
    with GGUFWriter(path, plan_layout(metadata, entries)) as writer:
        wanted = {name: {type} for name, type in types.items()}
        for name, x in stream(conversion, checkpoint, wanted):
            rows = x.reshape(-1, x.shape[-1])
            writer.write(name, rows if rows.dtype == torch.uint8 else quantize(rows, types[name]))
        writer.finish()
