"""A GGUF file as a source of weights to quantize."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.convert.conversion import check_finite
from hubquant.convert.restore import read_tensor
from hubquant.engine.files import Weights
from hubquant.errors import GGUFError
from hubquant.gguf_file import GGUFFile

if TYPE_CHECKING:
    import torch

_OF_THE_LAST_TIME = ("split.", "quantize.imatrix.", "hubquant.calibration_sha256")
FLOAT_TYPES = ("F32", "F16", "BF16")


def gguf_weights(file: GGUFFile, *, allow_requantize: bool = False) -> Weights:
    """What the file holds.

    Raises ``GGUFError`` for a file that is no model or that is quantized, unless ``allow_requantize``.
    """
    quantized = sorted({tensor.type for tensor in file.tensors.values()} - set(FLOAT_TYPES))
    if quantized and not allow_requantize:
        raise GGUFError(
            f"the file is quantized already: it holds {', '.join(quantized)} tensors",
            why="quantizing again loses more than quantizing the original",
            hint="start from the F16, BF16 or F32 file, or add --allow-requantize",
        )
    architecture = file.metadata.get("general.architecture")
    if architecture is None:
        raise GGUFError("the file is no model", why="it has no general.architecture")
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    kept = {k: v for k, v in file.metadata.items() if not k.startswith(_OF_THE_LAST_TIME)}
    types = [tensor.type for tensor in file.tensors.values() if len(tensor.shape) > 1]
    matrices = [type for type in types if type in FLOAT_TYPES]
    return Weights(
        str(architecture.value),
        _hparams(file, str(architecture.value)),
        kept,
        shapes,
        matrices[0] if matrices else "F16" if quantized else "F32",
    )


def stream_gguf(file: GGUFFile, names: frozenset[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Float32 tensors in file order. Raises ``CheckpointError`` for weights that are not finite."""
    for name in file.tensors:
        if name in names:
            x = read_tensor(file, name)
            check_finite(name, x)
            yield name, x


def gguf_identity(path: Path) -> dict[str, str]:
    status = path.stat()
    return {"model": path.name, "state": f"{status.st_size}-{status.st_mtime_ns}"}


def _hparams(file: GGUFFile, architecture: str) -> dict[str, int]:
    keys = {
        "n_layer": "block_count",
        "n_head": "attention.head_count",
        "n_head_kv": "attention.head_count_kv",
        "n_embd": "embedding_length",
        "n_ff": "feed_forward_length",
        "n_expert": "expert_count",
    }
    found = {name: file.metadata.get(f"{architecture}.{key}") for name, key in keys.items()}
    # where a size differs between layers, llama-quantize goes by the first
    values = {name: kv.value[:1] if isinstance(kv.value, tuple) else (kv.value,) for name, kv in found.items() if kv}
    return {name: next((v for v in values.get(name, ()) if isinstance(v, int)), 0) for name in found}
