"""Parses a GGUF header from untrusted bytes: every count and length is checked before it is used."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from gguf import GGUF_DEFAULT_ALIGNMENT, GGUF_MAGIC, GGUFValueType

from hubquant.errors import GGUFError
from hubquant.gguf_file.encoding import SCALAR_CODES
from hubquant.gguf_file.layout import DIFFUSION_DIMS, TensorEntry, pad
from hubquant.gguf_file.metadata import KV, Metadata, Scalar
from hubquant.gguf_file.types import FORK_TYPE_WITH_ID_OF, NAMES_BY_ID
from hubquant.quants.formats import lookup

VERSIONS = (2, 3)  # version 1 had 32-bit lengths and was replaced within weeks
MAX_ITEMS = 1 << 22  # the largest vocabularies have under 2^20 tokens
_MIN_KV_BYTES = 13  # an empty key, a type, one byte
_MIN_TENSOR_BYTES = 32  # an empty name, one dimension, type and offset
_TYPES = {int(type): type for type in GGUFValueType}


@dataclass(frozen=True)
class Header:
    """Metadata, tensors with their absolute byte offsets, both in file order."""

    metadata: Metadata
    tensors: dict[str, TensorEntry]
    offsets: dict[str, int]


def decode_header(data: memoryview) -> Header:
    """Read the header of a whole file that is mapped at ``data``; ``GGUFError`` says what is wrong with it."""
    try:
        return Cursor(data).header()
    except struct.error:
        raise GGUFError("the file ends inside its header", why=f"it has {len(data)} bytes") from None


class Cursor:
    """Reads a header from its beginning on; ``struct.error`` where the file ends."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.position = 0

    def header(self) -> Header:
        _, n_tensors, n_kv = self.counts()
        metadata: Metadata = {}
        for _ in range(n_kv):
            key = self.string()
            if key in metadata:
                raise GGUFError(f"metadata key {key!r} is there twice")
            metadata[key] = self.value(key)
        return self.tensor_table(metadata, n_tensors)

    def counts(self) -> tuple[int, int, int]:
        """The version, and the numbers of tensors and of metadata keys."""
        magic, version = self.unpack("II")
        if magic != GGUF_MAGIC:
            raise GGUFError("not a GGUF file", why="it does not begin with GGUF")
        if version not in VERSIONS:
            order = "big-endian files are" if version & 0xFFFF == 0 else f"version {version} is"
            raise GGUFError("this GGUF file cannot be read", why=f"{order} not supported")
        n_tensors, n_kv = self.unpack("QQ")
        self.expect(n_tensors, _MIN_TENSOR_BYTES, "tensors")
        self.expect(n_kv, _MIN_KV_BYTES, "metadata keys")
        return version, n_tensors, n_kv

    def tensor_table(self, metadata: Metadata, count: int) -> Header:
        tensors: dict[str, TensorEntry] = {}
        relative: dict[str, int] = {}
        for _ in range(count):
            name = self.string()
            (n_dims,) = self.unpack("I")
            if n_dims > DIFFUSION_DIMS:
                raise GGUFError(f"tensor {name!r} has {n_dims} dimensions", why=f"files have at most {DIFFUSION_DIMS}")
            *dims, type, offset = self.unpack(f"{n_dims}QIQ")
            if type not in NAMES_BY_ID:
                raise GGUFError(f"tensor {name!r} has unknown type {type}", why="it may come from a fork of llama.cpp")
            if name in tensors:
                raise GGUFError(f"tensor {name!r} is there twice")
            if 0 in dims:
                raise GGUFError(f"tensor {name!r} has a dimension of 0")
            tensors[name] = TensorEntry(name, tuple(reversed(dims)) or (1,), NAMES_BY_ID[type])
            relative[name] = offset
        alignment = _alignment(metadata)
        start = pad(self.position, alignment)
        offsets = {name: start + offset for name, offset in relative.items()}
        tensors = _told_apart(tensors, offsets, alignment, len(self.data))
        _check_extents(tensors, offsets, alignment, len(self.data))
        return Header(metadata, tensors, offsets)

    def value(self, key: str) -> KV:
        type = self.type(key)
        if type != GGUFValueType.ARRAY:
            return KV(self.string() if type == GGUFValueType.STRING else self.unpack(SCALAR_CODES[type])[0], type)
        item = self.type(key)
        (count,) = self.unpack("Q")
        values: tuple[Scalar, ...]
        if item == GGUFValueType.STRING:
            self.expect(count, 8, f"strings in {key!r}")
            values = tuple(self.strings(count))
        elif item == GGUFValueType.ARRAY:
            raise GGUFError(f"metadata key {key!r} is an array of arrays", why="llama.cpp does not read those")
        else:
            code = SCALAR_CODES[item]
            self.expect(count, struct.calcsize(code), f"values in {key!r}")
            values = self.unpack(f"{count}{code}")
        return KV(values, type, item)

    def type(self, key: str) -> GGUFValueType:
        (number,) = self.unpack("I")
        if number not in _TYPES:
            raise GGUFError(f"metadata key {key!r} has unknown type {number}")
        return _TYPES[number]

    def expect(self, count: int, each: int, what: str) -> None:
        if count > MAX_ITEMS or count * each > len(self.data) - self.position:
            raise GGUFError(f"the file claims {count} {what}", why="it is too short for them or damaged")

    def unpack(self, code: str) -> tuple[int, ...]:
        values = struct.unpack_from(f"<{code}", self.data, self.position)
        self.position += struct.calcsize(f"<{code}")
        return values

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        data, position, end = self.data, self.position, len(self.data)
        unpack_length = struct.Struct("<Q").unpack_from
        result = []
        for _ in range(count):
            (length,) = unpack_length(data, position)
            position += 8
            if length > end - position:
                raise GGUFError(f"a string of {length} bytes goes beyond the end of the file")
            try:
                result.append(str(data[position : position + length], "utf-8"))
            except UnicodeDecodeError:
                raise GGUFError(f"the string at byte {position} is not UTF-8") from None
            position += length
        self.position = position
        return result


def _alignment(metadata: Metadata) -> int:
    value = metadata["general.alignment"].value if "general.alignment" in metadata else int(GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or value < 1 or value & (value - 1):
        raise GGUFError(f"general.alignment is {value!r}", why="it must be a power of two")
    return value


def _told_apart(
    tensors: dict[str, TensorEntry], offsets: dict[str, int], alignment: int, size: int
) -> dict[str, TensorEntry]:
    """``tensors`` with the types that share a number with llama.cpp's, where the bytes up to the next tensor say so."""
    if not any(tensor.type in FORK_TYPE_WITH_ID_OF for tensor in tensors.values()):
        return tensors
    order = sorted(tensors, key=offsets.__getitem__)
    ends = dict(zip(order, [*(offsets[name] for name in order[1:]), size], strict=True))
    return {name: _by_size(tensor, ends[name] - offsets[name], alignment) for name, tensor in tensors.items()}


def _by_size(tensor: TensorEntry, room: int, alignment: int) -> TensorEntry:
    """``tensor``, or that of the fork's type with the same number. Too little room: see :func:`_check_extents`."""
    fork_type = FORK_TYPE_WITH_ID_OF.get(tensor.type)
    if fork_type is None or room < tensor.nbytes:
        return tensor
    if tensor.shape[-1] % lookup(fork_type).block_size:
        return tensor
    candidates = [tensor, replace(tensor, type=fork_type)]
    fitting = [each for each in candidates if each.nbytes <= room < each.nbytes + alignment]
    if len(fitting) != 1:
        raise GGUFError(
            f"tensor {tensor.name!r} may be {tensor.type} or {lookup(fork_type).fork}'s {fork_type}",
            why=f"both have the same number, and its {room} bytes do not tell which it is",
            hint="it may come from another version of the fork: quantize the model again",
        )
    return fitting[0]


def _check_extents(tensors: dict[str, TensorEntry], offsets: dict[str, int], alignment: int, size: int) -> None:
    end, previous = 0, ""
    for name in sorted(tensors, key=offsets.__getitem__):
        start = offsets[name]
        if start % alignment:
            raise GGUFError(f"tensor {name!r} is not aligned to {alignment} bytes")
        if start < end:
            raise GGUFError(f"tensors {previous!r} and {name!r} overlap")
        end, previous = start + tensors[name].nbytes, name
        if end > size:
            raise GGUFError(
                f"tensor {name!r} goes beyond the end of the file",
                why=f"it ends at byte {end} of {size}",
                hint="download the file again",
            )
