"""Reads GGUF files through a memory map; the shards of a split model are one file to the caller."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hubquant.disk import check_ends
from hubquant.errors import GGUFError
from hubquant.gguf_file.decoding import Header, decode_header
from hubquant.gguf_file.layout import TensorEntry
from hubquant.gguf_file.metadata import Metadata
from hubquant.units import counted

if TYPE_CHECKING:
    import torch

_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class _Part:
    path: Path
    header: Header
    data: np.ndarray[Any, Any]


class GGUFFile:
    """An open model: ``metadata`` (without ``split.*``), ``tensors`` in file order, and their bytes on demand."""

    def __init__(self, parts: list[_Part]) -> None:
        self.paths = [part.path for part in parts]
        self.metadata: Metadata = {k: v for k, v in parts[0].header.metadata.items() if not k.startswith("split.")}
        self.tensors: dict[str, TensorEntry] = {}
        self._part: dict[str, _Part] = {}
        for part in parts:
            for name, entry in part.header.tensors.items():
                if name in self.tensors:
                    raise GGUFError(f"tensor {name!r} is in {self._part[name].path.name} and in {part.path.name}")
                self.tensors[name] = entry
                self._part[name] = part

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open ``path`` and, when it is one shard of several, all the others beside it.

        Raises ``GGUFError`` for anything that is not a sound GGUF file or a complete set of shards.
        """
        part = _read(Path(path))
        count = _number(part.header.metadata, "split.count", 1)
        if count <= 1:
            return cls([part])
        return cls(_shards(part, count))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(part.stat().st_size for part in self.paths)

    def offset(self, name: str) -> tuple[Path, int]:
        """The file that holds a tensor, and the byte at which it begins."""
        part = self._part[name]
        return part.path, part.header.offsets[name]

    @property
    def shards(self) -> dict[str, int]:
        """The number of the shard that each tensor is in, the first being 0."""
        return {name: self.paths.index(part.path) for name, part in self._part.items()}

    def data(self, name: str) -> torch.Tensor:
        """uint8 [rows, row_bytes], a read-only view of the mapped file. ``GGUFError`` when there is no such tensor."""
        import torch

        if name not in self.tensors:
            raise GGUFError(f"{self.paths[0].name} has no tensor {name!r}")
        part, entry = self._part[name], self.tensors[name]
        start = part.header.offsets[name]
        array = part.data[start : start + entry.nbytes].reshape(entry.rows, entry.row_bytes)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)


_FETCH = "check that it is the GGUF file that is meant, and fetch it again"


def _read(path: Path) -> _Part:
    data = map_file(path)
    with naming(path):
        return _Part(path, decode_header(data.data), data)


def map_file(path: Path) -> np.ndarray[Any, Any]:
    """uint8 [bytes of the file], read as they are looked at. Raises ``GGUFError`` where there are none."""
    try:
        check_ends(path)
        if path.stat().st_size == 0:
            raise GGUFError(f"{path} cannot be read", why="it is empty", hint=_FETCH)
        # A plain read-only map: a private writable one would count against the memory limit for its whole size.
        mapped = np.memmap(path, dtype=np.uint8, mode="r")
    except IsADirectoryError as error:
        files = sorted(path.glob("*.gguf"))
        hint = f"name the file, such as {files[0]}" if files else "name a .gguf file"
        raise GGUFError(f"{path} cannot be read", why="it is a folder", hint=hint) from error
    except OSError as error:
        hint = "check the path and its permissions"
        raise GGUFError(f"{path} cannot be read", why=error.strerror or str(error), hint=hint) from error
    return np.asarray(mapped)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of what is read inside tell that ``path`` cannot be read."""
    try:
        yield
    except GGUFError as error:
        raise GGUFError(f"{path} cannot be read", why=str(error), hint=error.hint or _FETCH) from error


def shards_beside(path: Path, count: int) -> list[Path]:
    """The files of a model of which ``path`` is one of ``count``. Raises ``GGUFError`` where they are not all there."""
    match = _SHARD.fullmatch(path.name)
    if not match or int(match["count"]) != count:
        raise GGUFError(
            f"{path.name} is one of {count} shards",
            why="its name does not tell where the others are",
            hint=f"give it back its name: <model>-00001-of-{count:05d}.gguf",
        )
    paths = [path.with_name(f"{match['stem']}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise GGUFError(
            f"{len(missing)} of {count} shards are missing, first {missing[0]}",
            hint="download all shards into one folder",
        )
    return paths


def _shards(part: _Part, count: int) -> list[_Part]:
    paths = shards_beside(part.path, count)
    parts = [part if path == part.path else _read(path) for path in paths]
    for number, each in enumerate(parts):
        if (
            _number(each.header.metadata, "split.no", -1) != number
            or _number(each.header.metadata, "split.count", 1) != count
        ):
            raise GGUFError(
                f"{each.path.name} is not shard {number + 1} of {count}", why="its split.* keys say otherwise"
            )
    total = sum(len(each.header.tensors) for each in parts)
    if total != _number(parts[0].header.metadata, "split.tensors.count", total):
        raise GGUFError(
            f"{part.path.name} and its shards hold {counted(total, 'tensor')}",
            why="their metadata promises another number",
        )
    return parts


def _number(metadata: Metadata, key: str, default: int) -> int:
    value = metadata[key].value if key in metadata else default
    if not isinstance(value, int):
        raise GGUFError(f"metadata key {key!r} is not a number")
    return value
