"""Checksummed records in a file that a killed process can go on with."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hubquant.disk import write_all, writing

Rows = NDArray[np.float64]
KEY_BYTES = 32


class FinishedChunks:
    """Records of ``n_values`` float64 each, appended to a file that a killed process can go on with; none is held in
    memory.

    ``key`` (32 bytes) says what the records were made from; a file with another key, or one that ends within a record,
    loses what does not belong.
    """

    def __init__(self, path: Path, key: bytes, n_values: int) -> None:
        self._path = path
        self._record_bytes = 4 + 8 * n_values
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._n = sum(1 for _ in self._whole_records()) if self._has(key) else 0
            self._file = FileIO(path, "r+" if path.exists() else "w+")
            write_all(self._file, key)
            end = KEY_BYTES + self._n * self._record_bytes
            self._file.truncate(end)
            self._file.seek(end)

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, number: int) -> Rows:
        """Raises ``IndexError`` where there is no such record."""
        if not 0 <= number < self._n:
            raise IndexError(number)
        with self._path.open("rb") as file:
            file.seek(KEY_BYTES + number * self._record_bytes + 4)
            return np.frombuffer(file.read(self._record_bytes - 4), dtype="<f8")

    def __iter__(self) -> Iterator[Rows]:
        """The records, read one by one."""
        return self._whole_records()

    def _has(self, key: bytes) -> bool:
        if not self._path.exists():
            return False
        with self._path.open("rb") as file:
            return file.read(KEY_BYTES) == key

    def _whole_records(self) -> Iterator[Rows]:
        with self._path.open("rb") as file:
            file.seek(KEY_BYTES)
            while len(record := file.read(self._record_bytes)) == self._record_bytes:
                checksum, values = record[:4], record[4:]
                if zlib.crc32(values).to_bytes(4, "little") != checksum:
                    return
                yield np.frombuffer(values, dtype="<f8")

    def append(self, values: Rows) -> None:
        """Write one record. Raises ``ValueError`` for another number of values, ``DiskFullError`` or ``OutputError``
        when the place cannot be written."""
        payload = np.ascontiguousarray(values, dtype="<f8").tobytes()
        if len(payload) + 4 != self._record_bytes:
            raise ValueError(f"a record holds {self._record_bytes - 4} bytes, not {len(payload)}")
        with writing(self._path):
            write_all(self._file, zlib.crc32(payload).to_bytes(4, "little") + payload)
        self._n += 1

    def close(self) -> None:
        self._file.close()
