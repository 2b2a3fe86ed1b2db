"""A model folder: its config, and its tensors by name, read one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed, read_header
from hubquant.checkpoint.json_files import read_config
from hubquant.checkpoint.links import check_links
from hubquant.checkpoint.modules import module_settings, with_dense
from hubquant.checkpoint.storage import base_model
from hubquant.checkpoint.weight_files import WeightFiles, local_files, weight_files
from hubquant.errors import CheckpointError
from hubquant.hub.front_matter import read_card
from hubquant.units import counted

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "TensorInfo", "local_header", "read_header"]

_DTYPES = {  # of safetensors, in torch
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "U8": "uint8",
    "I8": "int8",
    "I32": "int32",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_READ_AS_THEY_ARE = (*FLOATS, "F64", "U8", "I32", "I64")


@dataclass(frozen=True)
class Checkpoint:
    """``config`` is config.json as it stands, and what the modules beside it say of themselves; ``tensors`` comes from
    the headers, those of a dense module under its folder's name; ``folder`` holds the weight files.

    ``notes`` tell what of the files is not read, and how the rest is; ``base_model`` is the Hub id of the model that
    this one was made from, if its card or config.json tells.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    base_model: str | None = None
    is_safetensors: ClassVar[bool] = True

    @classmethod
    def from_folder(cls, folder: Path) -> Checkpoint:
        """A folder with config.json and safetensors files, whose headers are read; ``CheckpointError`` otherwise."""
        check_links(folder)
        available = local_files(folder)
        files = with_dense(weight_files(folder, available), folder, available)
        headers = {file: local_header(folder / file, file) for file in files.names}
        return replace(cls.from_headers(folder, files, headers), folder=folder)

    @classmethod
    def from_headers(
        cls, folder: Path, files: WeightFiles, headers: Mapping[str, Mapping[str, TensorInfo]]
    ) -> Checkpoint:
        """``folder`` holds config.json; the headers of the weight ``files``, tensors by file and name, came from
        elsewhere. Such a checkpoint has no weights to read. Raises ``CheckpointError`` as ``from_folder`` does."""
        tensors, notes = _merged({file: headers[file] for file in files.names}, files.modules)
        config = read_config(folder)
        config |= module_settings(folder, config, files.modules)
        return cls(config, tensors, None, (*files.notes, *notes), base_model(config, read_card(folder)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the first matrix that holds floats; published models have one for all."""
        import torch

        types = (info.float_type for info in self.tensors.values() if len(info.shape) > 1)
        return getattr(torch, next((_DTYPES[each] for each in types if each in FLOATS), "float32"))  # type: ignore[no-any-return]

    def with_folder(self, folder: Path) -> Checkpoint:
        return replace(self, folder=folder)

    def noting(self, note: str) -> Checkpoint:
        return replace(self, notes=(*self.notes, note))

    def renamed(self, names: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]) -> Checkpoint:
        """The same tensors under other names, by the first (regular expression, replacement as ``re.sub`` takes it)
        that fits.

        ``CheckpointError`` when two tensors get the same name.
        """
        rules = [(re.compile(pattern), replacement) for pattern, replacement in names]
        if not rules:
            return self
        found: dict[str, TensorInfo] = {}
        for name, info in self.tensors.items():
            rule = next((rule for rule in rules if rule[0].search(name)), None)
            new = rule[0].sub(rule[1], name) if rule else name
            if new in found:
                raise CheckpointError(
                    f"two tensors of the checkpoint are {listed([new])}", why=f"one is {listed([name])}"
                )
            found[new] = info
        return replace(self, tensors=found)

    def read(self, name: str) -> torch.Tensor:
        """One tensor in the shape of its header, to keep or to change, with the file's dtype (F32, F16, BF16, U8).

        F64, FP8 with scales and what has a coding come as float32. Raises ``CheckpointError`` for other dtypes, FP8
        without scales among them, and where the weights are not on this machine; ``KeyError`` for an unknown name.
        """
        info = self.tensors[name]
        if info.coding is not None:
            return info.coding.decode(self._as_stored)
        if info.transposed:
            stored = replace(info, shape=(*info.shape[:-2], *info.shape[:-3:-1]), transposed=False)
            return replace(self, tensors={name: stored}).read(name).transpose(-1, -2)
        if info.scale is None:
            x = self._stored(info, _READ_AS_THEY_ARE)
            return x.float() if info.dtype == "F64" else x
        from hubquant.checkpoint.float8 import apply_scales

        x = self._as_stored(info)
        if info.scale.factors is None:
            return x.float()
        return apply_scales(x, self._as_stored(info.scale.factors), info.scale.block)

    def read_rows(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """Some rows of a matrix of floats, [len(rows), n]; the others are not read. Raises as ``read`` does."""
        info = self.tensors[name]
        return (self.read(name) if info.coding else self._stored(info, (*FLOATS, "F64")))[list(rows)]

    def read_blocks(self, name: str) -> torch.Tensor | None:
        """A matrix in blocks of its coding's type of GGUF, uint8 [rows, row_bytes], where these hold it without
        rounding; None otherwise. Raises as ``read`` does."""
        coding = self.tensors[name].coding
        return coding.blocks(self._as_stored) if coding and coding.type else None

    def _as_stored(self, info: TensorInfo) -> torch.Tensor:
        return self._stored(info, tuple(_DTYPES))

    def _stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> torch.Tensor:
        """A tensor as it lies in its file."""
        import torch

        self._check_stored(info, dtypes)
        assert self.folder is not None
        dtype = getattr(torch, _DTYPES[info.dtype])
        if not info.nbytes:
            return torch.empty(info.shape, dtype=dtype)
        return torch.from_numpy(_mapped(self.folder / info.file, info, dtype.itemsize)).view(dtype).reshape(info.shape)

    def _check_stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> None:
        if self.folder is None:
            raise CheckpointError(f"the weights of {info.file} are not on this machine", hint="download them first")
        if info.dtype not in dtypes:
            raise CheckpointError(
                f"tensor {listed([info.name])} is stored as {info.dtype}", why="weights are F32, F16 or BF16"
            )


def local_header(path: Path, name: str) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file on this machine, which ``name`` stands for. Raises ``CheckpointError``."""
    try:
        with open(path, "rb", buffering=0) as file:

            def read_range(begin: int, end: int) -> bytes:
                file.seek(begin)
                return file.read(end - begin)

            return read_header(read_range, name, path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read", why=error.strerror or str(error)) from error


def _merged(
    headers: Mapping[str, Mapping[str, TensorInfo]], modules: Collection[str]
) -> tuple[Mapping[str, TensorInfo], tuple[str, ...]]:
    """All tensors, and notes. As in transformers, of a tensor in two files the later one counts."""
    tensors: dict[str, TensorInfo] = {}
    twice = []
    for file, entries in headers.items():
        module = file.rpartition("/")[0]
        header = {f"{module}.{name}": info for name, info in entries.items()} if module in modules else entries
        twice += [name for name in header if name in tensors]
        tensors.update(header)
    found = counted(len(twice), "tensor is", "tensors are")
    return tensors, (f"{found} in two files, and the later one is read: {listed(twice)}",) if twice else ()


def _mapped(path: Path, info: TensorInfo, itemsize: int) -> np.ndarray[Any, Any]:
    """The bytes of a tensor where they lie in the page cache; what is changed of them changes in memory only.

    Reading into memory of its own costs several times as much, mostly for the system to find and clear that memory.
    """
    try:
        data = np.memmap(path, np.uint8, "c", info.begin, info.nbytes)
    except OSError as error:
        raise CheckpointError(f"{info.file} cannot be read", why=error.strerror or str(error)) from error
    except ValueError:
        raise CheckpointError(
            f"{info.file} ends inside tensor {listed([info.name])}", hint="fetch the file again"
        ) from None
    return data if info.begin % itemsize == 0 else data.copy()
