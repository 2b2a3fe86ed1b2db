"""Writes GGUF files made of pieces of others, in constant memory; they appear all together and whole, or not at all."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from gguf import GGUF_MAGIC

from hubquant.disk import sync, write_all, writing
from hubquant.errors import GGUFError
from hubquant.gguf_file.layout import pad
from hubquant.gguf_file.stored import StoredTensor

_PIECE = 1 << 22  # bytes


@dataclass(frozen=True)
class Piece:
    """``nbytes`` from byte ``start`` of ``path``, and zeros after them."""

    path: Path
    start: int
    nbytes: int
    padding: int = 0


@dataclass(frozen=True)
class CopiedFile:
    """A file to be written: ``header`` and the pieces after it."""

    header: bytes = field(repr=False)
    pieces: Sequence[Piece] = field(repr=False)
    n_tensors: int

    @property
    def size(self) -> int:
        return len(self.header) + sum(piece.nbytes + piece.padding for piece in self.pieces)


def lay_out(version: int, metadata: Mapping[str, bytes], tensors: Sequence[StoredTensor], alignment: int) -> CopiedFile:
    """``tensors`` one after the other in this order, as llama.cpp writes them: dimensions of 1 at their end are left
    out. ``metadata`` as in :class:`StoredFile`."""
    rows, pieces, end = [], [], 0
    for tensor in tensors:
        padding = pad(tensor.nbytes, alignment) - tensor.nbytes
        rows.append((tensor.name, _without_last_ones(tensor.dims), tensor.number, end))
        pieces.append(Piece(tensor.path, tensor.start, tensor.nbytes, padding))
        end += tensor.nbytes + padding
    header = encode_stored(version, metadata, rows)
    return CopiedFile(header.ljust(pad(len(header), alignment), b"\0"), pieces, len(tensors))


def encode_stored(
    version: int, metadata: Mapping[str, bytes], rows: Sequence[tuple[str, tuple[int, ...], int, int]]
) -> bytes:
    """A header without padding; ``rows`` are name, dimensions in ggml's order, number of the type, offset."""
    parts = [struct.pack("<IIQQ", GGUF_MAGIC, version, len(rows), len(metadata))]
    for key, stored in metadata.items():
        parts += [_name(key), stored]
    for name, dims, number, offset in rows:
        parts += [_name(name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, offset)]
    return b"".join(parts)


def write_files(files: Mapping[Path, CopiedFile], advance: Callable[[int], None] = lambda _: None) -> None:
    """Write every file beside its place, and give them their names when all are whole, the first one last.

    A file that replaces another has its permissions. ``advance`` is called with bytes written. Raises ``OutputError``,
    ``DiskFullError``, and ``GGUFError`` where a source is no longer what it was.
    """
    temporary = {path: path.with_name(f".{path.name}.writing") for path in files}
    try:
        for path, file in files.items():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(temporary[path], file, advance)
                if path.exists():
                    shutil.copymode(path, temporary[path])
                sync(temporary[path])
        for path in reversed(list(files)):
            with writing(path):
                temporary[path].replace(path)
                sync(path.parent)
    finally:
        for each in temporary.values():
            with suppress(OSError):
                each.unlink(missing_ok=True)


def _write(path: Path, file: CopiedFile, advance: Callable[[int], None]) -> None:
    with FileIO(path, "w") as target:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(target.fileno(), 0, file.size)
        write_all(target, file.header)
        advance(len(file.header))
        source: FileIO | None = None
        try:
            for piece in file.pieces:
                if source is None or source.name != str(piece.path):
                    if source is not None:
                        source.close()
                    source = FileIO(str(piece.path))
                _copy(source, piece, target, advance)
        finally:
            if source is not None:
                source.close()


def _copy(source: FileIO, piece: Piece, target: FileIO, advance: Callable[[int], None]) -> None:
    source.seek(piece.start)
    left = piece.nbytes
    while left:
        if not (read := source.read(min(left, _PIECE))):
            raise GGUFError(f"{piece.path} became shorter while it was read")
        write_all(target, read)
        left -= len(read)
        advance(len(read))
    write_all(target, bytes(piece.padding))


def _without_last_ones(dims: tuple[int, ...]) -> tuple[int, ...]:
    """ggml_n_dims: there is always one."""
    while len(dims) > 1 and dims[-1] == 1:
        dims = dims[:-1]
    return dims or (1,)


def _name(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
