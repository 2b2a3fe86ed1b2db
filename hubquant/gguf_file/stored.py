"""GGUF files as they lie on the disk, to be copied in other pieces or with other metadata: values and tensors that are
not understood stay what they are, byte by byte."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from gguf import GGUFValueType

from hubquant.disk import pieces
from hubquant.errors import GGUFError
from hubquant.gguf_file.decoding import Cursor
from hubquant.gguf_file.encoding import SCALAR_CODES
from hubquant.gguf_file.layout import DEFAULT_ALIGNMENT, DIFFUSION_DIMS, pad
from hubquant.gguf_file.metadata import KV
from hubquant.gguf_file.reader import map_file, naming, shards_beside
from hubquant.gguf_file.types import FORK_TYPE_WITH_ID_OF, NAMES_BY_ID
from hubquant.quants.formats import lookup
from hubquant.units import counted

ALIGNMENT = "general.alignment"
SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
_Row = tuple[tuple[int, ...], int, int]
"""Dimensions, number of the type, offset from the start of the data."""
DEEPEST = 8  # arrays in arrays; llama.cpp reads none at all


@dataclass(frozen=True)
class Source:
    """A file as it was when its header was read."""

    path: Path
    stamp: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> Source:
        """Raises ``GGUFError`` where there is none."""
        try:
            return cls(path, _stamp(path.stat()))
        except OSError as error:
            hint = "check the path and its permissions"
            raise GGUFError(f"{path} cannot be read", why=error.strerror or str(error), hint=hint) from error

    def pieces(self, opened: FileIO, start: int, n_bytes: int) -> Iterator[bytes]:
        """``n_bytes`` from byte ``start``. Raises ``GGUFError`` where the file became shorter."""
        try:
            yield from pieces(opened, start, n_bytes)
        except EOFError:
            raise GGUFError(f"{self.path} became shorter while it was read") from None

    def open(self) -> FileIO:
        """Raises ``GGUFError`` where it is another file now: what the header said holds no more."""
        try:
            file = FileIO(str(self.path))
        except OSError as error:
            raise GGUFError(f"{self.path} cannot be read", why=error.strerror or str(error)) from error
        if _stamp(os.fstat(file.fileno())) != self.stamp:
            file.close()
            raise GGUFError(f"{self.path} changed while it was read", hint="run the same line again")
        return file


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class StoredTensor:
    """``dims`` and ``number`` (of its type) as the file has them, ggml's order; ``nbytes`` from byte ``start`` of
    ``source``."""

    name: str
    dims: tuple[int, ...]
    number: int
    source: Source
    start: int
    nbytes: int

    @property
    def n_elements(self) -> int:
        return math.prod(self.dims)

    @property
    def type(self) -> str:
        """Its name, or its number where llama.cpp has no such type."""
        name = NAMES_BY_ID.get(self.number)
        if name is None:
            return f"type {self.number}"
        fork = FORK_TYPE_WITH_ID_OF.get(name)
        return fork if fork and _nbytes(fork, self.dims) == self.nbytes != _nbytes(name, self.dims) else name


@dataclass(frozen=True)
class StoredFile:
    """One file: ``metadata`` maps a key to the bytes after it, type and value. Tensors begin at ``data_start``."""

    source: Source
    version: int
    metadata: Mapping[str, bytes]
    tensors: Sequence[StoredTensor]
    alignment: int
    data_start: int
    size: int

    @property
    def path(self) -> Path:
        return self.source.path

    def value(self, key: str) -> KV | None:
        """None where the key is not there. Raises ``GGUFError`` for a value that llama.cpp does not read either."""
        stored = self.metadata.get(key)
        return None if stored is None else decode_value(key, stored)


def decode_value(key: str, stored: bytes) -> KV:
    """What stands after ``key``. Raises ``GGUFError`` for arrays of arrays and for text that is not UTF-8."""
    return Cursor(memoryview(stored)).value(key)


def read_stored(path: Path) -> StoredFile:
    """One file. Raises ``GGUFError`` for what is no GGUF file, and for one that is cut or contradicts itself."""
    source = Source.of(path)
    data = map_file(path)
    with naming(path):
        try:
            return _Reader(data.data).file(source)
        except struct.error:
            raise GGUFError("the file ends inside its header", why=f"it has {len(data)} bytes") from None


def read_model(path: Path) -> list[StoredFile]:
    """A file, and where it is one shard of several all of them in order. Raises ``GGUFError``."""
    first = read_stored(path)
    count = _number(first, SPLIT_COUNT, 1)
    if count <= 1:
        return [first]
    files = [read_stored(each) for each in shards_beside(path, count)]
    for number, each in enumerate(files):
        if _number(each, SPLIT_NO, -1) != number or _number(each, SPLIT_COUNT, 1) != count:
            raise GGUFError(
                f"{each.path.name} is not shard {number + 1} of {count}", why="its split.* keys say otherwise"
            )
    names = [tensor.name for each in files for tensor in each.tensors]
    if len(names) != _number(files[0], SPLIT_TENSORS, len(names)):
        raise GGUFError(
            f"{path.name} and its shards hold {counted(len(names), 'tensor')}", why="their metadata says otherwise"
        )
    if len({*names}) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GGUFError(f"tensor {twice!r} is in two shards of {path.name}")
    return files


def _number(file: StoredFile, key: str, default: int) -> int:
    kv = file.value(key)
    if kv is None:
        return default
    if not isinstance(kv.value, int):
        raise GGUFError(f"metadata key {key!r} of {file.path.name} is not a number")
    return kv.value


class _Reader(Cursor):
    def file(self, source: Source) -> StoredFile:
        version, n_tensors, n_kv = self.counts()
        metadata: dict[str, bytes] = {}
        for _ in range(n_kv):
            key = self.string()
            if key in metadata:
                raise GGUFError(f"metadata key {key!r} is there twice")
            start = self.position
            self.skip(key, self.type(key), 0)
            metadata[key] = bytes(self.data[start : self.position])
        rows: dict[str, _Row] = {}
        for _ in range(n_tensors):
            name, dims, number, offset = self.tensor()
            if name in rows:
                raise GGUFError(f"tensor {name!r} is there twice")
            rows[name] = dims, number, offset
        alignment = _alignment(metadata)
        start = pad(self.position, alignment)
        sizes = _sizes(rows, start, len(self.data), alignment)
        tensors = [
            StoredTensor(name, dims, number, source, start + at, sizes[name])
            for name, (dims, number, at) in rows.items()
        ]
        return StoredFile(source, version, metadata, tensors, alignment, start, len(self.data))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        (n_dims,) = self.unpack("I")
        if n_dims > DIFFUSION_DIMS:
            raise GGUFError(f"tensor {name!r} has {n_dims} dimensions", why=f"files have at most {DIFFUSION_DIMS}")
        *dims, number, offset = self.unpack(f"{n_dims}QIQ")
        if 0 in dims:
            raise GGUFError(f"tensor {name!r} has a dimension of 0")
        return name, tuple(dims), number, offset

    def skip(self, key: str, type: GGUFValueType, depth: int) -> None:
        """Over a value, checking that it is there."""
        if type == GGUFValueType.STRING:
            self.skip_strings(1)
        elif type != GGUFValueType.ARRAY:
            self.unpack(SCALAR_CODES[type])
        else:
            self.skip_array(key, depth)

    def skip_array(self, key: str, depth: int) -> None:
        item = self.type(key)
        (count,) = self.unpack("Q")
        if item == GGUFValueType.STRING:
            self.expect(count, 8, f"strings in {key!r}")
            self.skip_strings(count)
        elif item != GGUFValueType.ARRAY:
            each = struct.calcsize(SCALAR_CODES[item])
            self.expect(count, each, f"values in {key!r}")
            self.position += count * each
        elif depth == DEEPEST:
            raise GGUFError(f"metadata key {key!r} has arrays in arrays, more than {DEEPEST} deep")
        else:
            self.expect(count, 12, f"arrays in {key!r}")
            for _ in range(count):
                self.skip_array(key, depth + 1)

    def skip_strings(self, count: int) -> None:
        data, position, end = self.data, self.position, len(self.data)
        unpack_length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            (length,) = unpack_length(data, position)
            position += 8 + length
            if position > end:
                raise GGUFError(f"a string of {length} bytes goes beyond the end of the file")
        self.position = position


def _alignment(metadata: Mapping[str, bytes]) -> int:
    if ALIGNMENT not in metadata:
        return DEFAULT_ALIGNMENT
    value = decode_value(ALIGNMENT, metadata[ALIGNMENT]).value
    if not isinstance(value, int) or value < 1 or value & (value - 1):
        raise GGUFError(f"{ALIGNMENT} is {value!r}", why="it must be a power of two")
    return value


def _sizes(rows: Mapping[str, _Row], data_start: int, size: int, alignment: int) -> dict[str, int]:
    """Bytes of each tensor: by its type, and where nobody knows that all up to the next tensor. Raises ``GGUFError``
    for tensors that are not where they can be."""
    order = sorted(rows, key=lambda name: rows[name][2])
    starts = [data_start + rows[name][2] for name in order]
    sizes = {}
    ends = [*starts[1:], size] if starts else []
    for name, start, end in zip(order, starts, ends, strict=True):
        if start % alignment:
            raise GGUFError(f"tensor {name!r} is not aligned to {alignment} bytes")
        dims, number, _ = rows[name]
        sizes[name] = _size(name, dims, number, end - start, alignment)
    return sizes


def _size(name: str, dims: tuple[int, ...], number: int, room: int, alignment: int) -> int:
    if number not in NAMES_BY_ID:
        if room < 0:
            raise GGUFError(f"tensor {name!r} goes beyond the end of the file", hint="download the file again")
        return room
    type = NAMES_BY_ID[number]
    known = _nbytes(type, dims)
    fork = _nbytes(FORK_TYPE_WITH_ID_OF[type], dims) if type in FORK_TYPE_WITH_ID_OF else None
    possible = [each for each in (known, fork) if each is not None]
    if not possible:
        raise GGUFError(
            f"tensor {name!r} has rows of {(dims or (1,))[0]} weights", why=f"those are no whole blocks of {type}"
        )
    fitting = [each for each in possible if each <= room < each + alignment]
    found = max(fitting, default=possible[0])
    if found > room:
        raise GGUFError(
            f"tensor {name!r} goes beyond the end of its place",
            why=f"it takes {found} bytes and there are {max(room, 0)}",
            hint="download the file again",
        )
    return found


def _nbytes(type: str, dims: tuple[int, ...]) -> int | None:
    """None where rows are not whole blocks."""
    known = lookup(type)
    if (dims or (1,))[0] % known.block_size:
        return None
    return math.prod(dims) // known.block_size * known.block_bytes
