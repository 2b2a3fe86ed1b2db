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
    """Records of ``n_values`` float64 each, appended to a file that a killed process can go on with.

    ``key`` (32 bytes) says what the records were made from; a file with another key, or one that ends within a record,
    loses what does not belong.
    """

    def __init__(self, path: Path, key: bytes, n_values: int) -> None:
        self._path = path
        self._record_bytes = 4 + 8 * n_values
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = path.read_bytes() if path.exists() else b""
            self.records = list(self._whole_records(stored)) if stored[:KEY_BYTES] == key else []
            kept = KEY_BYTES + len(self.records) * self._record_bytes
            self._file = FileIO(path, "r+" if path.exists() else "w+")
            write_all(self._file, key)
            self._file.truncate(kept)
            self._file.seek(kept)

    def _whole_records(self, stored: bytes) -> Iterator[Rows]:
        for start in range(KEY_BYTES, len(stored) - self._record_bytes + 1, self._record_bytes):
            checksum, values = stored[start : start + 4], stored[start + 4 : start + self._record_bytes]
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
        self.records.append(np.frombuffer(payload, dtype="<f8"))

    def close(self) -> None:
        self._file.close()
