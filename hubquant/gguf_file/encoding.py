"""GGUF's binary header: counts, metadata, tensor table. Little endian, version 3."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from gguf import GGUF_MAGIC, GGUF_VERSION, GGUFValueType

from hubquant.errors import GGUFError
from hubquant.gguf_file.metadata import KV, Metadata, Scalar
from hubquant.quants.formats import lookup

SCALAR_CODES = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

TensorRow = tuple[str, tuple[int, ...], str, int]
"""Name, shape in torch order, type, offset from the start of the data."""


def encode_header(metadata: Metadata, tensors: Sequence[TensorRow]) -> bytes:
    """Everything before the tensor data, without the padding that follows it. Raises ``GGUFError`` for a value that its
    type cannot hold."""
    parts = [struct.pack("<IIQQ", GGUF_MAGIC, GGUF_VERSION, len(tensors), len(metadata))]
    for key, kv in metadata.items():
        parts += [_string(key), encode_value(key, kv)]
    for name, shape, type, offset in tensors:
        dims = tuple(reversed(shape))
        parts += [_string(name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, lookup(type).id, offset)]
    return b"".join(parts)


def encode_value(key: str, kv: KV) -> bytes:
    """A value behind its type, as it stands after ``key``. Raises ``GGUFError`` for one that its type cannot hold."""
    try:
        return _encode_texts(kv) if kv.item == GGUFValueType.STRING else _encode(kv)
    except (struct.error, TypeError, OverflowError, UnicodeEncodeError, KeyError) as error:
        raise GGUFError(f"metadata key {key} cannot be written", why=str(error)) from error


def _encode(kv: KV) -> bytes:
    return b"".join([struct.pack("<I", kv.type), *_value(kv)])


_encode_texts = lru_cache(maxsize=16)(_encode)  # every file of a model holds the same tokens


def _value(kv: KV) -> list[bytes]:
    if kv.type != GGUFValueType.ARRAY:
        return [_scalar(kv.value, kv.type)]
    if not isinstance(kv.value, tuple) or kv.item is None:
        raise TypeError("an array needs a tuple and an item type")
    head = struct.pack("<IQ", kv.item, len(kv.value))
    if kv.item == GGUFValueType.STRING:
        return [head, *(_string(item) for item in kv.value)]
    return [head, struct.pack(f"<{len(kv.value)}{SCALAR_CODES[kv.item]}", *kv.value)]


def _scalar(value: Scalar | tuple[Scalar, ...], type: GGUFValueType) -> bytes:
    return _string(value) if type == GGUFValueType.STRING else struct.pack(f"<{SCALAR_CODES[type]}", value)


def _string(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
