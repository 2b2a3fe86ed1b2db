"""The .dat format that llama-imatrix wrote before GGUF."""

from __future__ import annotations

import struct

import numpy as np
import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix.matrix import Entry, ImportanceMatrix

# The file does not tell its chunk size; this is llama-imatrix's default.
CHUNK_SIZE = 512


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, n: int) -> memoryview:
        if not 0 <= n <= len(self._data) - self._at:
            raise ValueError(
                f"{n:,} bytes are promised at byte {self._at:,}, and {len(self._data) - self._at:,} are left"
            )
        self._at += n
        return self._data[self._at - n : self._at]

    def int32(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def text(self) -> str:
        return str(self.take(self.int32()), "utf-8")


def parse_dat(data: bytes, name: str) -> ImportanceMatrix:
    """The matrix in ``data``; ``name`` is for messages.

    A value is the mean of x² times the number of chunks, so sums and counts come back up to rounding. Experts have one
    count in common, and their values stand in one row. Raises ``ImatrixError``.
    """
    try:
        return _parse(_Reader(data))
    except (ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise ImatrixError(
            f"{name} is no importance matrix",
            why=f"it is no GGUF file, and as a .dat file it is broken: {error}",
            hint="make one with: hubquant imatrix collect MODEL -o imatrix.gguf",
        ) from None


def _parse(reader: _Reader) -> ImportanceMatrix:
    entries: dict[str, Entry] = {}
    n_entries = reader.int32()
    if n_entries < 1:
        raise ValueError(f"it promises {n_entries} entries")
    for _ in range(n_entries):
        name, calls, n = reader.text(), reader.int32(), reader.int32()
        if n < 1 or calls < 0 or not name or name in entries:
            raise ValueError(f"entry {name!r} has {n} values of {calls} chunks")
        values = np.frombuffer(reader.take(4 * n), dtype="<f4").astype(np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"{name} holds values that are negative, NaN or infinite")
        in_sum2 = torch.from_numpy(values * CHUNK_SIZE)[None]
        entries[name] = Entry(in_sum2, torch.tensor([calls * CHUNK_SIZE]))
    chunk_count = max(int(entry.counts[0]) for entry in entries.values()) // CHUNK_SIZE
    # Old files end here.
    if not reader.at_end:
        chunk_count = max(reader.int32(), 0)
    datasets = (reader.text(),) if not reader.at_end else ()
    return ImportanceMatrix(entries, datasets, CHUNK_SIZE, chunk_count)
