"""Writes a planned GGUF file so that it appears complete or not at all, and goes on where a killed process stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xxhash

from hubquant.disk import sync, write_all, writing
from hubquant.gguf_file.layout import Layout

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 20  # bytes that stay in a core's cache between their checksum and their way to the system


class GGUFWriter:
    """Fills the tensors of ``layout`` in any order and renames the file to ``path`` when all are there.

    The bytes go to ``<path>.partial``; ``<path>.partial.journal`` lists finished tensors with their XXH3. A
    writer opened again with an identical header takes over every tensor whose bytes still have that checksum; any
    other header starts from nothing. The header must therefore tell apart work that gives different bytes (it holds the
    recipe's fingerprint). Raises ``DiskFullError`` or ``OutputError`` when the place cannot be written.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        self._partial = path.with_name(path.name + ".partial")
        self._journal_path = path.with_name(path.name + ".partial.journal")
        with writing(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            recovered = self._recover()
            if recovered is None:
                self._start_over()
            self._completed = recovered or {}
            # Unbuffered, and the journal's line follows the tensor's bytes: a kill loses at most the current tensor.
            self._file = FileIO(self._partial, "r+")
            self._journal = FileIO(self._journal_path, "a")

    @property
    def completed(self) -> frozenset[str]:
        """Names of the tensors that need not be written any more."""
        return frozenset(self._completed)

    def write(self, name: str, *parts: torch.Tensor | np.ndarray[Any, Any]) -> None:
        """Write one tensor's bytes: ``parts`` in a row, of any shape, dtype and device.

        Raises ``ValueError`` when they are not as many bytes as planned, ``DiskFullError`` or ``OutputError``.
        """
        entry = self.layout.tensors[name]
        views = [_bytes(part) for part in parts]
        if (size := sum(map(len, views))) != entry.nbytes:
            raise ValueError(f"{name} takes {entry.nbytes} bytes, not {size}")
        with writing(self.path):
            self._file.seek(self.layout.offsets[name])
            checksum = xxhash.xxh3_64()
            for view in views:
                for start in range(0, len(view), _CHUNK):
                    chunk = view[start : start + _CHUNK]
                    checksum.update(chunk)
                    write_all(self._file, chunk)
            self._completed[name] = checksum.hexdigest()
            write_all(self._journal, f"{self._completed[name]} {name}\n".encode())

    def finish(self) -> Path:
        """Give the file its name. ``ValueError`` when tensors are missing."""
        missing = [name for name in self.layout.tensors if name not in self.completed]
        if missing:
            raise ValueError(f"{len(missing)} tensors of {self.path.name} are not written, first {missing[0]}")
        with writing(self.path):
            os.fsync(self._file.fileno())
            self.close()
            os.replace(self._partial, self.path)
            sync(self.path.parent)
            self._journal_path.unlink(missing_ok=True)
        return self.path

    def close(self) -> None:
        """Let go of the files; a later writer goes on from them."""
        with writing(self.path):  # some file systems tell only now that they are full
            self._file.close()
            self._journal.close()

    def discard(self) -> None:
        """Remove everything that was written."""
        self.close()
        self._partial.unlink(missing_ok=True)
        self._journal_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start_over(self) -> None:
        self._journal_path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)
        try:
            with open(self._partial, "xb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, self.layout.size)
                else:
                    file.truncate(self.layout.size)
                file.write(self.layout.header)
        except OSError:
            self._partial.unlink(missing_ok=True)
            raise

    def _recover(self) -> dict[str, str] | None:
        """Checksums of the tensors an earlier writer finished; None when there is nothing to go on from."""
        try:
            if self._partial.stat().st_size != self.layout.size:
                return None
            with open(self._partial, "rb") as file:
                if file.read(len(self.layout.header)) != self.layout.header:
                    return None
                journal = self._journal_path.read_bytes() if self._journal_path.exists() else b""
                claimed = dict(_journal_lines(journal.decode(errors="replace")))
                found = {name: sum_ for name, sum_ in claimed.items() if name in self.layout.tensors}
                completed = {name: sum_ for name, sum_ in found.items() if self._checksum(file, name) == sum_}
        except FileNotFoundError:
            return None
        # A torn last line would swallow the next one, so the journal is written afresh.
        replacement = self._journal_path.with_name(self._journal_path.name + ".new")
        replacement.write_text("".join(f"{sum_} {name}\n" for name, sum_ in completed.items()), encoding="utf-8")
        os.replace(replacement, self._journal_path)
        return completed

    def _checksum(self, file: Any, name: str) -> str:
        file.seek(self.layout.offsets[name])
        left, checksum = self.layout.tensors[name].nbytes, xxhash.xxh3_64()
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            checksum.update(chunk)
            left -= len(chunk)
        return checksum.hexdigest()


def _journal_lines(journal: str) -> Iterator[tuple[str, str]]:
    """(name, checksum) of the lines that are whole."""
    for line in journal.split("\n")[:-1]:
        checksum, _, name = line.partition(" ")
        yield name, checksum


def _bytes(data: torch.Tensor | np.ndarray[Any, Any]) -> memoryview:
    if not isinstance(data, np.ndarray):
        import torch

        data = data.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data.toreadonly()
