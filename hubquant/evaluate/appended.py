"""Writes the compact form, whose chunks take the room that they need: one after the other, put in order at the end."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from io import FileIO
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from hubquant.disk import sync, write_all, writing
from hubquant.errors import BaselineError
from hubquant.evaluate import hdf5_writing
from hubquant.evaluate.baseline import CHECKSUMS, BaselineIdentity
from hubquant.evaluate.baseline_compact import DTYPES, ENTRY, FORMAT, CompactChunk, encode
from hubquant.evaluate.forms import LARGEST_COMPACT
from hubquant.evaluate.sampling import threshold_for
from hubquant.evaluate.scoring import n_scored

KEY_BYTES = 32
FRAME = 12  # length, CRC-32 and n_vocab, four bytes each


class AppendingWriter:
    """Appends records to a file beside ``path`` that a killed process can go on with."""

    def __init__(self, path: Path, identity: BaselineIdentity, ids: Tensor) -> None:
        """Of the chunks of token ``ids``, int64 [chunks, chunk_size]."""
        self._path, self._identity, self._ids = path, identity, ids
        self._n_scored = n_scored(ids.shape[1])
        self._threshold = threshold_for(len(ids) * self._n_scored)
        self._partial = path.with_name(f".{path.name}.partial")
        key = hashlib.sha256(repr((sorted(identity.attributes(FORMAT).items()), self._threshold)).encode()).digest()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self._partial, "r+" if self._partial.exists() else "w+")
            n, end = 0, KEY_BYTES
            if self._file.read(KEY_BYTES) == key:
                for _, data in islice(self._records(), len(ids)):
                    n, end = n + 1, end + FRAME + len(data)
            self._file.seek(0)
            write_all(self._file, key)
            self._file.truncate(end)
            self._file.seek(end)
        self.done = set(range(n))

    def write(self, chunk: int, logits: Tensor, targets: Tensor) -> None:
        """Raises ``DiskFullError`` or ``OutputError``, and BaselineError for a vocabulary that is too large."""
        if logits.shape[1] > LARGEST_COMPACT:
            raise BaselineError(
                f"a vocabulary of {logits.shape[1]} words has no compact form",
                why=f"that has room for {LARGEST_COMPACT}",
                hint="store it in full: --full",
            )
        digest = hashlib.sha256(self._ids[chunk].numpy().tobytes()).digest()
        random = np.random.Generator(np.random.PCG64(int.from_bytes(digest)))
        data = encode(logits, targets, self._threshold, random).to_bytes()
        frame = np.array([len(data), zlib.crc32(data), logits.shape[1]], "<u4").tobytes()
        with writing(self._path):
            write_all(self._file, frame + data)
        self.done.add(chunk)

    def finish(self) -> None:
        rows = (len(self._ids), self._n_scored)
        fixed = 4 * self._n_scored * len(DTYPES)
        sizes = [(len(data) - fixed) // ENTRY for _, data in self._records()]
        n_vocab = next(self._records())[0]
        arrays: dict[str, tuple[tuple[int, ...], str]] = {name: (rows, dtype) for name, dtype in DTYPES.items()}
        arrays |= {"entries": ((sum(sizes), ENTRY), "|u1"), CHECKSUMS: (rows[:1], "<u4")}
        arrays["tokens"] = (tuple(self._ids.shape), "<i4")
        attributes = {**self._identity.attributes(FORMAT), "n_vocab": str(n_vocab), "threshold": repr(self._threshold)}
        new = self._path.with_name(f".{self._path.name}.new")
        with writing(self._path):
            hdf5_writing.create(new, attributes, arrays)
            places = hdf5_writing.places(new)
            with FileIO(new, "r+") as file:
                _put(file, places["tokens"], self._ids.numpy().astype(np.int32).tobytes())
                for chunk, (_, data) in enumerate(self._records()):
                    found = CompactChunk.from_bytes(data, self._n_scored)
                    for name in DTYPES:
                        row = getattr(found, name).numpy().tobytes()
                        _put(file, places[name] + chunk * len(row), row)
                    _put(file, places["entries"] + ENTRY * sum(sizes[:chunk]), found.entries.numpy().tobytes())
                    _put(file, places[CHECKSUMS] + 4 * chunk, zlib.crc32(data).to_bytes(4, "little"))
                os.fsync(file.fileno())
            self._file.close()
            new.replace(self._path)
            sync(self._path.parent)
            self._partial.unlink(missing_ok=True)

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """The size of the vocabulary and the data of each whole record."""
        fixed = 4 * self._n_scored * len(DTYPES)
        with self._partial.open("rb") as file:
            file.seek(KEY_BYTES)
            while len(frame := file.read(FRAME)) == FRAME:
                length, checksum, n_vocab = (int(number) for number in np.frombuffer(frame, "<u4"))
                data = file.read(length)
                sound = len(data) == length >= fixed and (length - fixed) % ENTRY == 0
                if not sound or zlib.crc32(data) != checksum:
                    return
                yield n_vocab, data


def _put(file: FileIO, place: int, data: bytes) -> None:
    file.seek(place)
    write_all(file, data)
