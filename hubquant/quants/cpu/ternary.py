"""TQ1_0, TQ2_0, Q1_0, Q2_0: the scale is the largest or the mean magnitude of the block, and importance plays no part.

Kernels take ``values`` float32 [blocks, size] and write ``out`` uint8 [blocks, block_bytes]; the number of blocks is a
multiple of 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.block import (
    finite,
    half_bits,
    load_tile,
    put_bits,
    put_half,
    reciprocal,
    round_away,
    store_tile,
)
from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.search import extreme
from hubquant.quants.cpu.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    byte_vectors,
    multiply_int,
    put_byte,
    splat,
    splat_int,
    to_int,
    vectors,
    where,
)
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_TQ1_0, _TQ2_0, _Q1_0, _Q2_0 = (TYPES[name] for name in ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"))
_TQ1_BYTES, _TQ1_D, _TQ1_QS, _TQ1_QH = _TQ1_0.block_bytes, *(_TQ1_0.offset(name) for name in ("d", "qs", "qh"))
_TQ2_BYTES, _TQ2_D, _TQ2_QS = _TQ2_0.block_bytes, _TQ2_0.offset("d"), _TQ2_0.plane("qs")
_Q1_BYTES, _Q1_D, _Q1_QS = _Q1_0.block_bytes, _Q1_0.offset("d"), _Q1_0.plane("qs")
_Q2_BYTES, _Q2_D, _Q2_QS = _Q2_0.block_bytes, _Q2_0.offset("d"), _Q2_0.plane("qs")


@primitive
def _ternary(x: Pointer, size: int, lost: np.float32) -> Vector:
    """Codes 0, 1, 2 for −d, 0, d into ``x``, where d is the largest magnitude; returns the bits of d.

    ``lost`` is the code of every weight in blocks so small that 1 / d is infinite.
    """
    _, d = extreme(size, x)
    inverse = reciprocal(d)
    for i in range(size):
        scaled = x[i] * inverse
        x[i] = where(finite(scaled) == scaled, round_away(scaled) + _ONE, lost)
    return half_bits(d)


@kernel
def tq2_0(values: Array, out: Array) -> None:
    x, block = vectors(256), byte_vectors(_TQ2_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        put_half(block, _TQ2_D, _ternary(x, 256, _ONE))
        put_bits(block, _TQ2_QS, x, 256)
        store_tile(out, tile, block)


@primitive
def _put_trits(block: Pointer, at: int, codes: Pointer, first: int, count: int, trits: int) -> None:
    """``count`` bytes of ``trits`` ≤ 5 codes each, ``count`` apart: the base-3 number as a fraction of 3⁵, rounded up
    to 8 bits.
    """
    for i in range(count):
        number = splat_int(0)
        for k in range(5):
            digit = to_int(codes[first + k * count + i]) if k < trits else splat_int(0)
            number = multiply_int(number, 3) + digit
        # ⌈256 · number / 243⌉; the reciprocal of 243 is exact enough for numbers below 2¹⁶
        put_byte(block, at + i, multiply_int((number << 8) + 242, 17261) >> 22)


@primitive
def put_base_3(block: Pointer, codes: Pointer) -> None:
    _put_trits(block, _TQ1_QS, codes, 0, 32, 5)
    _put_trits(block, _TQ1_QS + 32, codes, 160, 16, 5)
    _put_trits(block, _TQ1_QH, codes, 240, 4, 4)


@kernel
def tq1_0(values: Array, out: Array) -> None:
    x, block = vectors(256), byte_vectors(_TQ1_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        put_half(block, _TQ1_D, _ternary(x, 256, _ONE))
        put_base_3(block, x)
        store_tile(out, tile, block)


@kernel
def q1_0(values: Array, out: Array) -> None:
    """Signs, and the mean magnitude."""
    x, block = vectors(128), byte_vectors(_Q1_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        total = splat(_ZERO)
        for i in range(128):
            total = total + absolute(x[i])
            x[i] = where(x[i] >= _ZERO, splat(_ONE), _ZERO)
        put_half(block, _Q1_D, half_bits(total / _f(128)))
        put_bits(block, _Q1_QS, x, 128)
        store_tile(out, tile, block)


@kernel
def q2_0(values: Array, out: Array) -> None:
    x, block = vectors(64), byte_vectors(_Q2_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        put_half(block, _Q2_D, _ternary(x, 64, _ZERO))
        put_bits(block, _Q2_QS, x, 64)
        store_tile(out, tile, block)
