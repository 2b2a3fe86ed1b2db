"""Building 16 blocks side by side: rounding, half floats, bit planes. Lane ``k`` of every vector belongs to block
``k``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    float_bits,
    from_bits,
    load_lanes,
    offset,
    pointer,
    put_byte,
    splat_int,
    store_lanes,
    to_int,
    truncate,
    where,
)
from hubquant.quants.formats import TYPES, Bits

Array = np.ndarray[Any, Any]

_MAGIC = np.float32(12582912.0)  # 1.5 · 2²³: adding it leaves the rounded value in the low mantissa bits
_MANTISSA, _MAGIC_EXPONENT = 0x007FFFFF, 0x4B000000


@primitive
def nearest(value: Vector) -> Vector:
    """ggml's ``nearest_int`` as a float: half to even. Beyond ±2²², for infinity and NaN it gives the same arbitrary
    number as the bit trick in C does.
    """
    return from_bits((float_bits(value + _MAGIC) & _MANTISSA) | _MAGIC_EXPONENT) - _MAGIC


@primitive
def nearest_small(value: Vector) -> Vector:
    """:func:`nearest` for magnitudes below 2²²."""
    return (value + _MAGIC) - _MAGIC


@primitive
def minimum(a: Vector, b: Vector) -> Vector:
    """``a < b ? a : b``"""
    return where(a < b, a, b)


@primitive
def maximum(a: Vector, b: Vector) -> Vector:
    """``a > b ? a : b``"""
    return where(a > b, a, b)


@primitive
def clamp(value: Vector, low: Vector, high: Vector) -> Vector:
    """``value`` within low … high; ``low`` for NaN."""
    return minimum(maximum(value, low), high)


@primitive
def finite(value: Vector) -> Vector:
    """0 for infinity and NaN, which scales that underflow give: x86 machines convert them to an integer with a low byte
    of 0.
    """
    return where(absolute(value) < np.float32(2147483648.0), value, np.float32(0))


@primitive
def round_away(value: Vector) -> Vector:
    """C's ``roundf``: half away from zero."""
    whole = truncate(value)
    away = where(value < np.float32(0), whole - np.float32(1), whole + np.float32(1))
    return where(absolute(value - whole) >= np.float32(0.5), away, whole)


@primitive
def reciprocal(value: Vector) -> Vector:
    """1 / value, 0 for 0."""
    return where(value != np.float32(0), np.float32(1) / value, np.float32(0))


@primitive
def half_bits(value: Vector) -> Vector:
    """Single to half precision, to nearest even, as 16-bit patterns in i32x16. Integer arithmetic, so F16C is not
    needed; NaN becomes quiet.
    """
    bits = float_bits(value)
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude - (112 << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13
    # adding 0.5 moves the unit of the half denormals, 2⁻²⁴, to the last mantissa bit
    denormal = float_bits(from_bits(magnitude) + np.float32(0.5)) - (126 << 23)
    special = where(magnitude > 0x7F800000, splat_int(0x7E00), 0x7C00)
    return (bits >> 16) & 0x8000 | where(
        magnitude >= 143 << 23, special, where(magnitude < 113 << 23, denormal, normal)
    )


@primitive
def from_half(half: Vector) -> Vector:
    """16-bit patterns in i32x16 to single precision."""
    shifted = (half & 0x7FFF) << 13
    exponent = shifted & 0x0F800000
    rebased = shifted + (112 << 23)
    denormal = float_bits(from_bits(rebased + (1 << 23)) - from_bits(splat_int(113 << 23)))
    magnitude = where(exponent == 0x0F800000, rebased + (112 << 23), where(exponent == 0, denormal, rebased))
    return from_bits(magnitude | (half & 0x8000) << 16)


@primitive
def load_tile(target: Pointer, values: Array, tile: int) -> None:
    """Weight ``i`` of blocks ``16 · tile …`` of float32 [blocks, size] into vector ``i``."""
    size = values.shape[1]
    start = tile * LANES * size
    for i in range(0, size, 16):
        load_lanes(offset(target, i), offset(pointer(values), start + i), size)


@primitive
def store_tile(out: Array, tile: int, block: Pointer) -> None:
    """16 finished blocks of at least 16 bytes from their byte vectors to uint8 [blocks, size]."""
    size = out.shape[1]
    target = offset(pointer(out), tile * LANES * size)
    for first in range(0, size - 16, 16):
        store_lanes(target, size, block, first)
    store_lanes(target, size, block, size - 16)


@primitive
def put_half(target: Pointer, at: int, half: Vector) -> None:
    """Bytes ``at`` and ``at`` + 1 of each block become a 16-bit pattern, little endian."""
    put_byte(target, at, half)
    put_byte(target, at + 1, half >> 8)


@primitive
def put_bits(target: Pointer, plane: tuple[int, int, int, int], codes: Pointer, size: int) -> None:
    """Write one bit plane (``TypeFormat.plane``) of ``size`` codes per block; codes are whole, non-negative floats."""
    at, bits, stride, shift = plane
    per_byte = 8 // bits
    mask = (1 << bits) - 1
    for group in range(size // (stride * per_byte)):
        for i in range(stride):
            byte = splat_int(0)
            for k in range(per_byte):
                code = to_int(codes[(group * per_byte + k) * stride + i])
                byte = byte | ((code >> shift) & mask) << (bits * k)
            put_byte(target, at + group * stride + i, byte)


def code_planes(type: str) -> Callable[[Pointer, Pointer], None]:
    """A primitive ``put(block, codes)`` that writes all bit planes of a type."""
    size = TYPES[type].block_size
    planes = [TYPES[type].plane(field.name) for field in TYPES[type].fields if isinstance(field, Bits)]
    first, last = planes[0], planes[-1]

    @primitive
    def one(block: Pointer, codes: Pointer) -> None:
        put_bits(block, first, codes, size)

    @primitive
    def two(block: Pointer, codes: Pointer) -> None:
        put_bits(block, first, codes, size)
        put_bits(block, last, codes, size)

    return two if len(planes) == 2 else one
