"""Pickled checkpoints. torch's reader of weights takes tensors and plain containers out of them and runs nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.checkpoint.headers import TensorInfo, listed
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.pickle_headers import inner
from hubquant.checkpoint.weight_files import PICKLES, WeightFiles, weight_files
from hubquant.errors import CheckpointError
from hubquant.recent import Recent

if TYPE_CHECKING:
    import torch

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

_read: Recent[tuple[str, int, int], Mapping[str, torch.Tensor]] = Recent(4)


@dataclass(frozen=True)
class PickledCheckpoint(Checkpoint):
    """Of files in the newer format only what is asked for is read from the disk, of older ones all."""

    is_safetensors = False

    @classmethod
    def from_file(cls, path: Path) -> PickledCheckpoint:
        """Raises ``CheckpointError`` for a file that holds no tensors, or more than tensors and plain containers."""
        return cls({}, _header(path), path.parent, (_note([path.name]),))

    @classmethod
    def from_pickles(cls, folder: Path, files: WeightFiles) -> PickledCheckpoint:
        """The ``files`` of a folder with config.json. Raises ``CheckpointError`` as :meth:`from_file` does."""
        check_links(folder, [folder / name for name in files.names])
        return cls.from_pickled_headers(folder, files, {name: _header(folder / name) for name in files.names}, folder)

    @classmethod
    def from_pickled_headers(
        cls,
        folder: Path,
        files: WeightFiles,
        headers: Mapping[str, Mapping[str, TensorInfo]],
        weights: Path | None = None,
    ) -> PickledCheckpoint:
        """As :meth:`Checkpoint.from_headers`; ``weights`` is the folder with the files, where they are there."""
        plain = Checkpoint.from_headers(folder, files, headers)
        notes = (*plain.notes, _note(files.names))
        return cls(plain.config, plain.tensors, weights, notes, plain.base_model)

    def _stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> torch.Tensor:
        self._check_stored(info, dtypes)
        assert self.folder is not None
        x = _tensors(self.folder / info.file).get(info.name)
        if x is None:
            raise CheckpointError(f"{info.file} holds no {listed([info.name])}", hint="fetch the file again")
        return x.contiguous().clone()


def pickles_of(folder: Path, available: Collection[str]) -> WeightFiles | None:
    """The pickled files that are the model, where transformers would take none of the ``available`` others."""
    files = weight_files(folder, available, pickles=True)
    return files if files.names[0].endswith(PICKLES) else None


def refusal(path: Path) -> CheckpointError:
    """For a pickle where none is allowed."""
    return CheckpointError(
        f"{path.name} is a pickle",
        why="such files can run code when they are loaded",
        hint=f"{_SAFETENSORS}, or set model.allow_pickle: true in a recipe: then tensors are read and nothing is run",
    )


def _header(path: Path) -> dict[str, TensorInfo]:
    return {name: _info(name, x, path.name) for name, x in _tensors(path).items()}


def _note(names: Collection[str]) -> str:
    return f"of the pickle {listed(names)} nothing but tensors was read"


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
    return {name: x.detach() for name, x in inner(content, torch.Tensor, path.name).items()}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
