"""A model folder: its config, and its tensors by name, read one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hubquant.convert.headers import TensorInfo, listed, load_json, read_header
from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "TensorInfo", "read_header", "weight_files"]

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = {  # of safetensors, in torch
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_READ_AS_THEY_ARE = ("F32", "F16", "BF16", "U8")
LARGEST_JSON = 100_000_000  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """``config`` is config.json as it stands; ``tensors`` comes from the headers; ``folder`` holds the weight files."""

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    folder: Path | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> Checkpoint:
        """A folder with config.json and safetensors files, whose headers are read; ``CheckpointError`` otherwise."""
        files = weight_files((path.name for path in folder.iterdir()), read_index(folder))
        config = read_config(folder)
        headers = {file: _local_header(folder / file) for file in files}
        return cls(config, _merged(headers, read_index(folder)), folder)

    @classmethod
    def from_headers(cls, folder: Path, headers: Mapping[str, Mapping[str, TensorInfo]]) -> Checkpoint:
        """``folder`` holds config.json and the index; the headers of the weight files came from elsewhere."""
        return cls(read_config(folder), _merged(headers, read_index(folder)))

    def with_folder(self, folder: Path) -> Checkpoint:
        return replace(self, folder=folder)

    def renamed(self, names: Iterable[tuple[str, str]]) -> Checkpoint:
        """The same tensors under other names, by the first (regular expression, replacement) that fits.

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
        return replace(self, tensors=MappingProxyType(found))

    def read(self, name: str) -> torch.Tensor:
        """One tensor, to keep or to change, with the file's dtype (F32, F16, BF16, U8); FP8 with scales as float32."""
        info = self.tensors[name]
        if info.scale is None:
            return self._stored(info, _READ_AS_THEY_ARE)
        from hubquant.convert.float8 import apply_scales

        x, factors = self._stored(info, tuple(_DTYPES)), self._stored(info.scale.factors, tuple(_DTYPES))
        return apply_scales(x, factors, info.scale.block)

    def read_rows(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """Some rows of a matrix of floats, [len(rows), n]; the others are not read."""
        return self._stored(self.tensors[name], ("F32", "F16", "BF16"))[list(rows)]

    def _stored(self, info: TensorInfo, dtypes: tuple[str, ...]) -> torch.Tensor:
        """A tensor as it lies in its file."""
        import torch

        if self.folder is None:
            raise CheckpointError(f"the weights of {info.file} are not on this machine", hint="download them first")
        if info.dtype not in dtypes:
            raise CheckpointError(
                f"tensor {listed([info.name])} is stored as {info.dtype}", why="weights are F32, F16 or BF16"
            )
        dtype = getattr(torch, _DTYPES[info.dtype])
        if not info.nbytes:
            return torch.empty(info.shape, dtype=dtype)
        return torch.from_numpy(_mapped(self.folder / info.file, info, dtype.itemsize)).view(dtype).reshape(info.shape)


def weight_files(available: Iterable[str], index: Mapping[str, str] | None) -> tuple[str, ...]:
    """The safetensors files that make up the model, of the file names that are there.

    ``index`` maps tensors to files. ``CheckpointError`` when a shard is missing or there are no safetensors.
    """
    available = set(available)
    if ADAPTER in available and CONFIG not in available:
        raise CheckpointError(
            "this is an adapter, not a model",
            why=f"it has {ADAPTER} and no {CONFIG}",
            hint="merge it into its base model, save that, and convert the result",
        )
    if index is not None:
        files = sorted(set(index.values()))
        if missing := [file for file in files if file not in available]:
            raise CheckpointError(
                f"{len(missing)} of {len(files)} weight files are missing: {listed(missing)}",
                why=f"{INDEX} lists them",
                hint="download the whole repository again",
            )
        return tuple(files)
    if SINGLE in available:
        return (SINGLE,)
    if pickles := sorted(name for name in available if name.endswith(PICKLES)):
        raise CheckpointError(
            "this model has pickled weights only",
            why=f"{listed(pickles)} could run code when loaded",
            hint="use a repository with safetensors, or convert it: https://huggingface.co/spaces/safetensors/convert",
        )
    if shards := sorted(filter(_SHARD.fullmatch, available)):
        raise CheckpointError(
            f"this model has no {INDEX}",
            why=f"it tells what belongs to the model of {listed(shards)}",
            hint="fetch it from the model's repository",
        )
    raise CheckpointError(
        f"this model has no {SINGLE}", hint=f"check that the folder or repository holds {SINGLE} or {INDEX}"
    )


def read_config(folder: Path) -> dict[str, Any]:
    return _json_table(folder / CONFIG, hint="check that this is a transformers model")


def read_index(folder: Path) -> dict[str, str] | None:
    """Tensor name -> file name, or None for a model in one file."""
    if not (folder / INDEX).is_file():
        return None
    weight_map = _json_table(folder / INDEX, hint="download the file again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{INDEX} has no weight_map")
    for file in weight_map.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or "/" in file or "\\" in file:
            raise CheckpointError(
                f"{INDEX} names {listed([str(file)])}", why="only safetensors files beside it can be read"
            )
    return weight_map


def _json_table(path: Path, hint: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path.name} has more than {LARGEST_JSON:,} bytes", hint=hint)
        table = load_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path.name} in {path.parent}", hint=hint) from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read", why=error.strerror or str(error), hint=hint) from error
    except ValueError as error:
        raise CheckpointError(f"{path.name} is not sound JSON", why=str(error), hint=hint) from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path.name} does not hold a table", hint=hint)
    return table


def _local_header(path: Path) -> dict[str, TensorInfo]:
    try:
        with open(path, "rb", buffering=0) as file:

            def read_range(begin: int, end: int) -> bytes:
                file.seek(begin)
                return file.read(end - begin)

            return read_header(read_range, path.name, path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read", why=error.strerror or str(error)) from error


def _merged(
    headers: Mapping[str, Mapping[str, TensorInfo]], index: Mapping[str, str] | None
) -> Mapping[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file, header in headers.items():
        if twice := [name for name in header if name in tensors]:
            raise CheckpointError(
                f"{len(twice)} tensors are in two files: {listed(twice)}",
                why=f"{file} and {tensors[twice[0]].file} both hold {listed(twice[:1])}",
            )
        tensors.update(header)
    if index is not None:
        absent = [name for name, file in index.items() if name not in tensors or tensors[name].file != file]
        if absent:
            raise CheckpointError(
                f"{len(absent)} tensors are not in the file that {INDEX} names: {listed(absent)}",
                why=f"{index[absent[0]]} does not hold {listed(absent[:1])}",
                hint="download the repository again",
            )
    return MappingProxyType(tensors)


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
