"""Pickled checkpoints. torch's reader of weights takes tensors and plain containers out of them and runs nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.errors import CheckpointError
from hubquant.recent import Recent

if TYPE_CHECKING:
    import torch

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_INSIDE = ("state_dict", "model", "module", "params_ema", "ema")
"""Under which training programs keep the weights, beside what else they save."""
_SAFETENSORS = "save the tensors with the program that made it: safetensors.torch.save_file(state_dict, FILE)"
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Of torch's dtypes, in safetensors."""

_read: Recent[tuple[str, int, int], Mapping[str, torch.Tensor]] = Recent(1)


@dataclass(frozen=True, kw_only=True)
class PickledCheckpoint(Checkpoint):
    """The tensors of one file; of those in the newer format only what is asked for is read from the disk."""

    path: Path

    @classmethod
    def from_file(cls, path: Path) -> PickledCheckpoint:
        """Raises ``CheckpointError`` for a file that holds no tensors, or more than tensors and plain containers."""
        tensors = {name: _info(name, x, path.name) for name, x in _tensors(path).items()}
        note = f"of the pickle {path.name} nothing but tensors was read"
        return cls({}, tensors, path.parent, (note,), path=path)

    def _stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> torch.Tensor:
        if info.dtype not in dtypes:
            raise CheckpointError(
                f"tensor {listed([info.name])} is stored as {info.dtype}", why="weights are F32, F16 or BF16"
            )
        return _tensors(self.path)[info.name].contiguous()


def refusal(path: Path) -> CheckpointError:
    """For a pickle where none is allowed."""
    return CheckpointError(
        f"{path.name} is a pickle",
        why="such files can run code when they are loaded",
        hint=f"{_SAFETENSORS}, or set model.allow_pickle: true in a recipe: then tensors are read and nothing is run",
    )


def _info(name: str, x: torch.Tensor, file: str) -> TensorInfo:
    dtype = _NAMES.get(str(x.dtype).removeprefix("torch."))
    if dtype is None or x.layout.__str__() != "torch.strided" or x.is_meta:
        raise CheckpointError(f"tensor {listed([name])} is no plain array of numbers", hint=_SAFETENSORS)
    return TensorInfo(name, dtype, tuple(x.shape), file, 0, x.numel() * x.element_size())


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    status = path.stat()
    return _read.get((str(path.resolve()), status.st_size, status.st_mtime_ns), lambda: _load(path))


def _load(path: Path) -> Mapping[str, torch.Tensor]:
    import pickle

    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} cannot be read without running code", why=_first_line(error), hint=_SAFETENSORS
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read", why=error.strerror or str(error)) from error
    except Exception as error:  # whatever damaged bytes make of its reader
        raise CheckpointError(
            f"{path.name} is not a sound pickle of tensors", why=_first_line(error), hint="fetch the file again"
        ) from error
    for _ in _INSIDE:
        inner = next((content[key] for key in _INSIDE if isinstance(content, Mapping) and key in content), None)
        content = inner if isinstance(inner, Mapping) else content
    tensors = {} if not isinstance(content, Mapping) else content
    found = {name: x.detach() for name, x in tensors.items() if isinstance(name, str) and isinstance(x, torch.Tensor)}
    if not found:
        raise CheckpointError(f"{path.name} holds no tensors", hint="name a file with the weights of a model")
    return found


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
