"""Writes GGUF files made of pieces of others, in constant memory; they appear all together and whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from itertools import groupby
from pathlib import Path

from gguf import GGUF_MAGIC

from hubquant.disk import sync, unfinished, write_all, writing
from hubquant.errors import OutputError
from hubquant.gguf_file.layout import pad
from hubquant.gguf_file.stored import Source, StoredTensor


@dataclass(frozen=True)
class Piece:
    """``nbytes`` from byte ``start`` of ``source``, and zeros after them."""

    source: Source
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
        pieces.append(Piece(tensor.source, tensor.start, tensor.nbytes, padding))
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
    temporary = {path: unfinished(path) for path in files}
    first = next(iter(files))
    with writing(first):
        first.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(temporary[first])
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
                temporary.pop(path).replace(path)
                sync(path.parent)
    finally:
        for each in temporary.values():
            with suppress(OSError):
                each.unlink(missing_ok=True)
        lock.close()


def _locked(path: Path) -> FileIO:
    """The file at ``path``, made where it is not there, for this process alone until it is closed. Raises
    ``OutputError`` where another process has it."""
    while True:
        file = FileIO(path, "a")
        if sys.platform == "win32":  # which renames no open file
            file.close()
            return file
        import fcntl

        try:
            with _where_supported():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OutputError(
                f"another process writes {path.name.removeprefix('.').removesuffix('.writing')}",
                hint="wait for it, or name another file with -o",
            ) from None
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        file.close()  # the process that had it has given it its name meanwhile


@contextmanager
def _where_supported() -> Iterator[None]:
    """Some file systems have no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise


def _write(path: Path, file: CopiedFile, advance: Callable[[int], None]) -> None:
    with FileIO(path, "w") as target:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(target.fileno(), 0, file.size)
        write_all(target, file.header)
        advance(len(file.header))
        for source, pieces in groupby(file.pieces, lambda piece: piece.source):
            with source.open() as opened:
                for piece in pieces:
                    _copy(opened, piece, target, advance)


def _copy(source: FileIO, piece: Piece, target: FileIO, advance: Callable[[int], None]) -> None:
    for read in piece.source.pieces(source, piece.start, piece.nbytes):
        write_all(target, read)
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
