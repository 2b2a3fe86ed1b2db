"""Writes the forms in which a chunk takes the same room everywhere: what a killed process left is filled further."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from hubquant.disk import disk_full, sync, write_all, writing
from hubquant.errors import BaselineError
from hubquant.evaluate import baseline_full, baseline_llama_cpp, hdf5_writing
from hubquant.evaluate.baseline import CHECKSUMS, Baseline, BaselineIdentity
from hubquant.evaluate.scoring import n_scored

Preallocated = Literal["full", "llama.cpp"]
RECORDS = "records"


class PreallocatedWriter:
    """Fills a file with plain writes, under another name. A journal beside it tells the finished chunks."""

    def __init__(self, path: Path, identity: BaselineIdentity, ids: Tensor, form: Preallocated) -> None:
        """Of the chunks of token ``ids``, int64 [chunks, chunk_size]."""
        self._path, self._identity, self._ids, self._form = path, identity, ids, form
        self._file: FileIO | None = None
        self._places: Mapping[str, int] = {}
        journal = self._kept() or {}
        self.done = set(journal)
        if journal:
            self._open(journal)

    def write(self, chunk: int, logits: Tensor, targets: Tensor) -> None:
        """Raises ``DiskFullError`` before the first chunk if there is no room for all, or ``OutputError``."""
        if self._file is None:
            self._create(logits.shape[1])
        assert self._file is not None
        with writing(self._path):
            checksum = 0
            for name, data in self._encoded(logits, targets).items():
                checksum = zlib.crc32(data, checksum)
                self._put(self._places[name] + chunk * len(data), data)
            if CHECKSUMS in self._places:
                self._put(self._places[CHECKSUMS] + 4 * chunk, checksum.to_bytes(4, "little"))
            with _journal(self._path).open("a") as journal:
                journal.write(f"{chunk} {checksum}\n")
        self.done.add(chunk)

    def finish(self) -> None:
        assert self._file is not None
        with writing(self._path):
            os.fsync(self._file.fileno())
            self._file.close()
            _partial(self._path).replace(self._path)
            sync(self._path.parent)
            _journal(self._path).unlink(missing_ok=True)

    def _encoded(self, logits: Tensor, targets: Tensor) -> dict[str, bytes]:
        if self._form == "llama.cpp":
            return {RECORDS: baseline_llama_cpp.encode(logits)}
        rows = baseline_full.encode(logits, targets)
        return {name: getattr(rows, name).numpy().tobytes() for name in baseline_full.DATASETS}

    def _put(self, place: int, data: bytes) -> None:
        assert self._file is not None
        self._file.seek(place)
        write_all(self._file, data)

    def _kept(self) -> dict[int, int] | None:
        """The finished chunks and their checksums of an unfinished file of the same model and chunks."""
        partial = _partial(self._path)
        if not partial.exists():
            return None
        key, journal = _read_journal(self._path)
        try:
            with Baseline.open(partial) as found:
                if key != self._key or found.form != self._form or not found.ids.equal(self._ids):
                    return None
                if self._form == "full" and (found.identity != self._identity or not found.has_checksums):
                    return None
                known = {chunk: checksum for chunk, checksum in journal.items() if chunk < found.n_chunks}
                return {chunk: sum for chunk, sum in known.items() if found.scores.checksum(chunk) == sum}
        except BaselineError:
            return None

    @property
    def _key(self) -> str:
        content = repr(self._identity.attributes(self._form)).encode()
        return f"{zlib.crc32(content):08x}"

    def _create(self, n_vocab: int) -> None:
        n_chunks, chunk_size = self._ids.shape
        rows = (n_chunks, n_scored(chunk_size))
        new = self._path.with_name(f".{self._path.name}.new")
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._path.parent).free < 2 * n_vocab * rows[0] * rows[1]:
                raise disk_full(self._path)
            if self._form == "llama.cpp":
                start = baseline_llama_cpp.header(self._ids, n_vocab)
                with FileIO(new, "w") as file:
                    write_all(file, start)
                    file.truncate(len(start) + 2 * rows[0] * rows[1] * baseline_llama_cpp.record_size(n_vocab))
            else:
                arrays: dict[str, tuple[tuple[int, ...], str]] = {
                    name: (rows, dtype) for name, dtype in baseline_full.DTYPES.items()
                }
                arrays["codes"] = ((*rows, n_vocab), "<u2")
                arrays |= {CHECKSUMS: (rows[:1], "<u4"), "tokens": (tuple(self._ids.shape), "<i4")}
                hdf5_writing.create(new, self._identity.attributes(baseline_full.FORMAT), arrays)
                with FileIO(new, "r+") as file:
                    file.seek(hdf5_writing.places(new)["tokens"])
                    write_all(file, self._ids.numpy().astype(np.int32).tobytes())
            _journal(self._path).unlink(missing_ok=True)
            new.replace(_partial(self._path))
        self._open({})

    def _open(self, journal: Mapping[int, int]) -> None:
        partial = _partial(self._path)
        if self._form == "llama.cpp":
            self._places = {RECORDS: baseline_llama_cpp.HEADER + 4 * self._ids.numel()}
        else:
            self._places = hdf5_writing.places(partial)
        lines = [f"key {self._key}", *(f"{chunk} {checksum}" for chunk, checksum in journal.items())]
        with writing(self._path):
            self._file = FileIO(partial, "r+")
            _journal(self._path).write_text("".join(f"{line}\n" for line in lines))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial.journal")


def _read_journal(path: Path) -> tuple[str, dict[int, int]]:
    """The key, and the checksums by chunk."""
    text = _journal(path).read_bytes() if _journal(path).exists() else b""
    lines = [line.split() for line in text[: text.rfind(b"\n") + 1].splitlines()]
    pairs = [(first, second) for first, second in (line for line in lines if len(line) == 2)]
    keys = [second.decode(errors="replace") for first, second in pairs if first == b"key"]
    found = {int(chunk): int(sum) for chunk, sum in pairs if chunk.isdigit() and sum.isdigit()}
    return keys[0] if keys else "", found
