"""The block layout of every tensor type a GGUF file can hold: one declarative spec per type.

A row of weights is cut into blocks of ``block_size``; each block is a C struct whose members are listed here in order.
Small integer codes are stored as bit planes, and every plane of every ggml type follows one rule (:class:`Bits`), so
packing and unpacking are written once for all. Sizes and ids are those of ``ggml_type`` (ggml.h) and of the ``block_*``
structs (ggml-common.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

LANES = 16  # blocks that the CPU kernels work on side by side

_BYTES = {"f64": 8, "f32": 4, "f16": 2, "bf16": 2, "u8": 1, "i8": 1, "u16": 2, "i16": 2, "i32": 4, "i64": 8}


@dataclass(frozen=True)
class Field:
    """``count`` numbers of type ``kind`` (little endian), or ``count`` bytes of a packing of their own when ``kind`` is
    "u8".
    """

    name: str
    kind: str
    count: int = 1

    def nbytes(self, block_size: int) -> int:
        del block_size
        return _BYTES[self.kind] * self.count


@dataclass(frozen=True)
class Bits:
    """A bit plane: bits ``shift … shift + bits - 1`` of each code of the block.

    Within each group of ``group`` codes, code ``k * stride + i`` lies in byte ``i`` of the group at bit ``k * bits``;
    hence ``group = stride * 8 / bits``.
    """

    name: str
    bits: int
    stride: int
    shift: int = 0

    @property
    def group(self) -> int:
        return self.stride * 8 // self.bits

    def nbytes(self, block_size: int) -> int:
        return block_size * self.bits // 8


@dataclass(frozen=True)
class TypeFormat:
    """One ggml tensor type: ``name`` and ``id`` as in ``gguf.GGMLQuantizationType``, and the members of one block.

    ``fork`` is the repository of the only llama.cpp that reads the type, None for llama.cpp itself.
    """

    name: str
    id: int
    block_size: int
    fields: tuple[Field | Bits, ...]
    fork: str | None = None

    @property
    def block_bytes(self) -> int:
        return sum(field.nbytes(self.block_size) for field in self.fields)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of ``n`` weights; ValueError when ``n`` is not a positive multiple of the block size."""
        if n <= 0 or n % self.block_size:
            raise ValueError(
                f"rows of {n} weights cannot be {self.name}: the row length must be a multiple of {self.block_size}"
            )
        return n // self.block_size * self.block_bytes

    def offset(self, name: str) -> int:
        """Byte offset of a member in its block."""
        start = 0
        for field in self.fields:
            if field.name == name:
                return start
            start += field.nbytes(self.block_size)
        raise KeyError(name)

    def field(self, name: str) -> Field | Bits:
        return next(field for field in self.fields if field.name == name)

    def plane(self, name: str) -> tuple[int, int, int, int]:
        """``(offset, bits, stride, shift)`` of a bit plane."""
        field = self.field(name)
        assert isinstance(field, Bits)
        return self.offset(name), field.bits, field.stride, field.shift


def _plain(name: str, id: int, kind: str) -> TypeFormat:
    return TypeFormat(name, id, 1, (Field("values", kind),))


_D, _DMIN, _M = Field("d", "f16"), Field("dmin", "f16"), Field("m", "f16")

FORMATS = (
    _plain("F32", 0, "f32"),
    _plain("F16", 1, "f16"),
    _plain("BF16", 30, "bf16"),
    _plain("F64", 28, "f64"),
    _plain("I8", 24, "i8"),
    _plain("I16", 25, "i16"),
    _plain("I32", 26, "i32"),
    _plain("I64", 27, "i64"),
    # legacy types: one scale (and minimum) per 32 weights
    TypeFormat("Q4_0", 2, 32, (_D, Bits("qs", 4, 16))),
    TypeFormat("Q4_1", 3, 32, (_D, _M, Bits("qs", 4, 16))),
    TypeFormat("Q5_0", 6, 32, (_D, Bits("qh", 1, 1, shift=4), Bits("qs", 4, 16))),
    TypeFormat("Q5_1", 7, 32, (_D, _M, Bits("qh", 1, 1, shift=4), Bits("qs", 4, 16))),
    TypeFormat("Q8_0", 8, 32, (_D, Field("qs", "i8", 32))),
    TypeFormat("Q8_1", 9, 32, (_D, Field("s", "f16"), Field("qs", "i8", 32))),
    # K types: super-blocks of 256 weights, whose sub-blocks of 16 or 32 have integer scales (and minima)
    TypeFormat("Q2_K", 10, 256, (Field("scales", "u8", 16), Bits("qs", 2, 32), _D, _DMIN)),
    TypeFormat("Q3_K", 11, 256, (Bits("hmask", 1, 32, shift=2), Bits("qs", 2, 32), Field("scales", "u8", 12), _D)),
    TypeFormat("Q4_K", 12, 256, (_D, _DMIN, Field("scales", "u8", 12), Bits("qs", 4, 32))),
    TypeFormat("Q5_K", 13, 256, (_D, _DMIN, Field("scales", "u8", 12), Bits("qh", 1, 32, shift=4), Bits("qs", 4, 32))),
    TypeFormat("Q6_K", 14, 256, (Bits("ql", 4, 64), Bits("qh", 2, 32, shift=4), Field("scales", "i8", 16), _D)),
    TypeFormat("Q8_K", 15, 256, (Field("d", "f32"), Field("qs", "i8", 256), Field("bsums", "i16", 16))),
    # codebook types: codes index grids of sign-less points
    TypeFormat("IQ2_XXS", 16, 256, (_D, Field("qs", "u16", 32))),
    TypeFormat("IQ2_XS", 17, 256, (_D, Field("qs", "u16", 32), Field("scales", "u8", 8))),
    TypeFormat("IQ2_S", 22, 256, (_D, Field("qs", "u8", 64), Field("qh", "u8", 8), Field("scales", "u8", 8))),
    TypeFormat("IQ3_XXS", 18, 256, (_D, Field("qs", "u8", 96))),
    TypeFormat(
        "IQ3_S",
        21,
        256,
        (_D, Field("qs", "u8", 64), Field("qh", "u8", 8), Field("signs", "u8", 32), Field("scales", "u8", 4)),
    ),
    TypeFormat("IQ1_S", 19, 256, (_D, Field("qs", "u8", 32), Field("qh", "u16", 8))),
    TypeFormat("IQ1_M", 29, 256, (Field("qs", "u8", 32), Field("qh", "u8", 16), Field("scales", "u8", 8))),
    TypeFormat("IQ4_NL", 20, 32, (_D, Bits("qs", 4, 16))),
    TypeFormat("IQ4_XS", 23, 256, (_D, Field("scales_h", "u16"), Field("scales_l", "u8", 4), Bits("qs", 4, 16))),
    # ternary, binary and 4-bit float types
    TypeFormat("TQ1_0", 34, 256, (Field("qs", "u8", 48), Field("qh", "u8", 4), _D)),
    TypeFormat("TQ2_0", 35, 256, (Bits("qs", 2, 32), _D)),
    TypeFormat("MXFP4", 39, 32, (Field("e", "u8"), Bits("qs", 4, 16))),
    TypeFormat("NVFP4", 40, 64, (Field("scales", "u8", 4), Bits("qs", 4, 8))),
    TypeFormat("Q1_0", 41, 128, (_D, Bits("qs", 1, 1))),
    TypeFormat("Q2_0", 42, 64, (_D, Bits("qs", 2, 1))),
)

TYPES: Mapping[str, TypeFormat] = MappingProxyType({fmt.name: fmt for fmt in FORMATS})

FORK_FORMATS = (
    # a Q3_K block, and eight weights of it in half precision; not all of the fork's readers look at the count
    TypeFormat(
        "Q3_K_HIFI",
        42,  # Q2_0 in llama.cpp itself: only the size of a tensor tells the two apart
        256,
        (*TYPES["Q3_K"].fields, *(Field("index", "u8", 8), Field("outlier", "f16", 8), Field("count", "u8", 2))),
        fork="geoffmunn/llama.cpp",
    ),
)

FORK_TYPES: Mapping[str, TypeFormat] = MappingProxyType({fmt.name: fmt for fmt in FORK_FORMATS})


def fork_of(types: Iterable[str]) -> str | None:
    """The only llama.cpp that reads tensors of all these types; None where any does."""
    return next((FORK_TYPES[name].fork for name in types if name in FORK_TYPES), None)


def lookup(name: str) -> TypeFormat:
    """The format called ``name``; ValueError naming the known types otherwise."""
    found = TYPES.get(name) or FORK_TYPES.get(name)
    if found is None:
        raise ValueError(f"unknown tensor type {name!r}: known types are {', '.join([*TYPES, *FORK_TYPES])}")
    return found
