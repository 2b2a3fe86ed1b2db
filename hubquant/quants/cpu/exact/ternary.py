"""TQ1_0, TQ2_0, Q1_0, Q2_0: the scale is the largest or the mean magnitude of the block.

Importance plays no part.
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import (
    code_planes,
    finite,
    half_bits,
    put_half,
    reciprocal,
    round_away,
)
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import framed, unweighted
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    absolute,
    multiply_int,
    put_byte,
    splat,
    splat_int,
    to_int,
    where,
)
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_TQ1_D, _TQ1_QS, _TQ1_QH = (TYPES["TQ1_0"].offset(name) for name in ("d", "qs", "qh"))
_Q1_D = TYPES["Q1_0"].offset("d")
_put_signs = code_planes("Q1_0")


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


def _two_bits(type: str, lost: np.float32) -> Kernel:
    size, d_at = TYPES[type].block_size, TYPES[type].offset("d")
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, _w: Pointer, block: Pointer) -> None:
        put_half(block, d_at, _ternary(x, size, lost))
        put_codes(block, x)

    return framed(type.lower(), type, search, unweighted)


tq2_0 = _two_bits("TQ2_0", _ONE)
q2_0 = _two_bits("Q2_0", _ZERO)


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
    """Codes 0, 1, 2 of a block of TQ1_0, five to a byte, the last sixteen four to a byte."""
    _put_trits(block, _TQ1_QS, codes, 0, 32, 5)
    _put_trits(block, _TQ1_QS + 32, codes, 160, 16, 5)
    _put_trits(block, _TQ1_QH, codes, 240, 4, 4)


@primitive
def _search_tq1(x: Pointer, _w: Pointer, block: Pointer) -> None:
    put_half(block, _TQ1_D, _ternary(x, 256, _ONE))
    put_base_3(block, x)


tq1_0 = framed("tq1_0", "TQ1_0", _search_tq1, unweighted)


@primitive
def _search_signs(x: Pointer, _w: Pointer, block: Pointer) -> None:
    """Signs, and the mean magnitude."""
    total = splat(_ZERO)
    for i in range(128):
        total = total + absolute(x[i])
        x[i] = where(x[i] >= _ZERO, splat(_ONE), _ZERO)
    put_half(block, _Q1_D, half_bits(total / _f(128)))
    _put_signs(block, x)


q1_0 = framed("q1_0", "Q1_0", _search_signs, unweighted)
