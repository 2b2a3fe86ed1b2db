"""LoRA adapters as peft saves them, and the checkpoints that merge_and_unload() would make of their base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.conversion import edit_weights

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
_EMBEDDING = "embed_tokens"


def factors(base: Path, ends: Collection[str], rank: int = 4, *, conv1d: bool = False) -> Factors:
    """A [rank, in] and B [out, rank] for every module of a checkpoint whose name ends so. Of ``conv1d`` modules it has
    the weight [in, out], of embeddings [n_vocab, n_embd], which are in and out."""
    generator, found = torch.Generator().manual_seed(5), {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module != name and module.endswith(tuple(ends)):
            n_out, n_in = weight.T.shape if conv1d or module.endswith(_EMBEDDING) else weight.shape
            found[module] = (
                0.2 * torch.randn(rank, n_in, generator=generator),
                0.2 * torch.randn(n_out, rank, generator=generator),
            )
    return found


def save(folder: Path, base: Path | str, changes: Factors, **settings: Any) -> Path:
    tensors = {}
    for name, pair in changes.items():
        for letter, x in zip("AB", pair, strict=True):
            kind = f"lora_embedding_{letter}" if name.endswith(_EMBEDDING) else f"lora_{letter}.weight"
            tensors[f"base_model.model.{name}.{kind}"] = x.contiguous()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 8, "bias": "none"}
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config | settings))
    return folder


def merged(folder: Path, base: Path, changes: Factors, scale: Callable[[str], float], *, conv1d: bool = False) -> Path:
    """The base with the scale of each module times B A added, or of ``conv1d`` modules and embeddings its transpose."""

    def edit(weights: dict[str, torch.Tensor]) -> None:
        for name, (a, b) in changes.items():
            change = scale(name) * (b @ a)
            weights[f"{name}.weight"] += change.T if conv1d or name.endswith(_EMBEDDING) else change

    shutil.copytree(base, folder)
    return edit_weights(folder, edit)
