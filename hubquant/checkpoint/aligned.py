"""Safetensors files whose tensors begin at whole lines of the processor's cache, as some kernels take for granted."""

from __future__ import annotations

import json
from pathlib import Path

from hubquant.checkpoint.checkpoint import local_header
from hubquant.checkpoint.headers import LENGTH_BYTES
from hubquant.disk import pieces, unfinished, writing

LINE = 64  # bytes


def align(path: Path) -> None:
    """Write the file anew with the same tensors, those of whole lines first: they begin at a line then, in the file and
    in memory that it is mapped to."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = sorted(local_header(path, path.name).values(), key=lambda x: (x.nbytes % LINE != 0, x.begin))
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for x in tensors:
        header[x.name] = {"dtype": x.dtype, "shape": x.shape, "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % LINE)
    partial = unfinished(path)
    with writing(path):
        with path.open("rb", buffering=0) as source, partial.open("wb") as target:
            target.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            for x in tensors:
                target.writelines(pieces(source, x.begin, x.nbytes))
        partial.replace(path)
