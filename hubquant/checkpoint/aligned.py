"""Safetensors files whose tensors begin at whole lines of the processor's cache, as some kernels take for granted."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

LINE = 64  # bytes
_COPIED = 1 << 24  # bytes at a time


def align(path: Path) -> None:
    """Write the file anew with the same tensors, those of whole lines first: they begin at a line then, in the file and
    in memory that it is mapped to."""
    with path.open("rb") as source:
        (length,) = struct.unpack("<Q", source.read(8))
        header: dict[str, Any] = json.loads(source.read(length))
        metadata = {name: header.pop(name) for name in ("__metadata__",) if name in header}
        start, end, moved = 8 + length, 0, {}
        for name in sorted(header, key=lambda name: (_size(header[name]) % LINE != 0, header[name]["data_offsets"])):
            moved[name] = {**header[name], "data_offsets": [end, end + _size(header[name])]}
            end += _size(header[name])
        text = json.dumps({**metadata, **moved}, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % LINE)
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as target:
            target.write(struct.pack("<Q", len(text)) + text)
            for name in moved:
                source.seek(start + header[name]["data_offsets"][0])
                _copy(source, target, _size(header[name]))
    shutil.copymode(path, partial)
    os.replace(partial, path)


def _size(entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    return int(end - begin)


def _copy(source: BinaryIO, target: BinaryIO, n_bytes: int) -> None:
    while n_bytes:
        part = source.read(min(n_bytes, _COPIED))
        target.write(part)
        n_bytes -= len(part)
