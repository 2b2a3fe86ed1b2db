"""GGUF files byte by byte, with what our own writer does not write: unknown types, arrays in arrays, odd text."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


@dataclass(frozen=True)
class Tensor:
    """``dims`` in ggml's order, ``type`` a number."""

    name: str
    dims: tuple[int, ...]
    type: int
    data: bytes


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def value(type: int, packed: bytes) -> bytes:
    return struct.pack("<I", type) + packed


def array(item: int, packed: Sequence[bytes]) -> bytes:
    return value(ARRAY, struct.pack("<IQ", item, len(packed)) + b"".join(packed))


def file_bytes(
    metadata: Mapping[str, bytes], tensors: Sequence[Tensor], alignment: int = 32, version: int = 3
) -> bytes:
    """Values of ``metadata`` as :func:`value` and :func:`array` make them."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    body, data = b"".join(text(key.encode()) + stored for key, stored in metadata.items()), b""
    for tensor in tensors:
        dims = struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
        body += text(tensor.name.encode()) + dims + struct.pack("<IQ", tensor.type, len(data))
        data += padded(tensor.data, alignment)
    return padded(head + body, alignment) + data


def padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


SAMPLE_METADATA: Mapping[str, bytes] = {
    "general.architecture": value(STRING, text(b"llama")),
    "split.count": value(U16, struct.pack("<H", 0)),  # as llama-gguf-split leaves it in what it merged
    "general.name": value(STRING, text("Größe".encode())),
    "a.u8": value(U8, b"\xff"),
    "a.i8": value(I8, b"\xff"),
    "a.u16": value(U16, struct.pack("<H", 7)),
    "a.i16": value(I16, struct.pack("<h", -7)),
    "a.u32": value(U32, struct.pack("<I", 7)),
    "a.i32": value(I32, struct.pack("<i", -7)),
    "a.f32": value(F32, struct.pack("<f", 0.1)),
    "a.bool": value(BOOL, b"\1"),
    "a.u64": value(U64, struct.pack("<Q", 2**63)),
    "a.i64": value(I64, struct.pack("<q", -1)),
    "a.f64": value(F64, struct.pack("<d", 0.1)),
    "a.texts": array(STRING, [text(b"a"), text(b"")]),
    "a.numbers": array(I32, [struct.pack("<i", n) for n in (1, -1)]),
    "a.flags": array(BOOL, [b"\1", b"\0"]),
}


def sample() -> list[Tensor]:
    """Ten tensors: F32, F16, Q4_0 and Q4_K, with one to four dimensions."""
    shapes = [
        *(((32,), 0, 128), ((256, 2), 12, 288), ((33, 3), 1, 198), ((32, 1), 2, 18), ((256, 3), 12, 432)),
        *(((64, 2, 2), 2, 144), ((5,), 0, 20), ((32, 1, 1, 1), 0, 128), ((7, 1, 3), 0, 84), ((256, 1), 12, 144)),
    ]
    return [
        Tensor(f"blk.{i}.weight", dims, type, bytes((i * 7 + at) % 251 for at in range(size)))
        for i, (dims, type, size) in enumerate(shapes)
    ]


def write_sample(path: Path) -> Path:
    """The file of which tests know the digests that llama.cpp's own programs give."""
    path.write_bytes(file_bytes(SAMPLE_METADATA, sample()))
    return path
