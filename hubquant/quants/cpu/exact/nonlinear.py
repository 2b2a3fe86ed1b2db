"""IQ4_NL and IQ4_XS: 4-bit codes that stand for 16 unevenly spaced values, denser around zero."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import (
    clamp,
    code_planes,
    half_bits,
    nearest,
    put_half,
    reciprocal,
)
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import by_block_doubled, by_square, framed
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    offset,
    put_byte,
    splat,
    splat_int,
    to_int,
    vectors,
    where,
)
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_TINY = _f(1e-15)
# arrays: an index into a tuple that is not a constant becomes a jump
LEVELS = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32)
MIDDLES = (LEVELS[:-1] + LEVELS[1:]) / _f(2)
_NL_D = TYPES["IQ4_NL"].offset("d")
_XS_D, _XS_HIGH, _XS_LOW = (TYPES["IQ4_XS"].offset(name) for name in ("d", "scales_h", "scales_l"))
_put_nl_codes, _put_xs_codes = code_planes("IQ4_NL"), code_planes("IQ4_XS")


@primitive
def level(value: Vector) -> Vector:
    """The nearest of the 16 values, the higher of two equally near; the highest for NaN."""
    found = splat(LEVELS[0])
    for k in range(15):
        found = where(value < MIDDLES[k], found, LEVELS[k + 1])
    return found


@primitive
def level_code(value: Vector) -> Vector:
    """The number 0 … 15 of the nearest of the 16 values."""
    found = splat(_ZERO)
    for k in range(15):
        found = where(value < MIDDLES[k], found, _f(k + 1))
    return found


@primitive
def level_sums(x: Pointer, w: Pointer, inverse: Vector) -> tuple[Vector, Vector]:
    """Σ w·q·x and Σ w·q² of 32 weights with the levels q that an inverse scale gives."""
    qx = splat(_ZERO)
    qq = splat(_ZERO)
    for i in range(32):
        q = level(inverse * x[i])
        weighted = w[i] * q
        qx = qx + weighted * x[i]
        qq = qq + weighted * q
    return qx, qq


@primitive
def _scale(x: Pointer, w: Pointer) -> Vector:
    """The best of 16 scales for 32 weights: the extreme at the lowest value, then at −127 − 7 … −127 + 7."""
    value, magnitude = extreme(32, x)
    alive = magnitude >= _TINY
    qx, qq = level_sums(x, w, _ONE / (-value / LEVELS[0]))
    scale = where(qq > _ZERO, qx / qq, _ZERO)
    best = scale * qx
    for step in range(-7, 8):
        qx, qq = level_sums(x, w, (_f(step) + LEVELS[0]) / value)
        better = (qq > _ZERO) & (qx * qx > best * qq)
        scale = where(better, qx / qq, scale)
        best = where(better, scale * qx, best)
    return where(alive, scale, _ZERO)


@primitive
def put_nl(block: Pointer, x: Pointer, scale: Vector) -> None:
    """The scale in half precision, and the codes that it gives; ``x`` becomes these."""
    put_half(block, _NL_D, half_bits(scale))
    inverse = reciprocal(scale)
    for i in range(32):
        x[i] = level_code(inverse * x[i])
    _put_nl_codes(block, x)


@primitive
def _search_nl(x: Pointer, w: Pointer, block: Pointer) -> None:
    put_nl(block, x, _scale(x, w))


iq4_nl = framed("iq4_nl", "IQ4_NL", _search_nl, by_square)
iq4_nl_weighted = framed("iq4_nl_weighted", "IQ4_NL", _search_nl, by_block_doubled)


@primitive
def _put_xs_scales(block: Pointer, scales: Pointer) -> None:
    """Scales 0 … 63 of the eight sub-blocks, which stand for −32 … 31."""
    for j in range(4):
        put_byte(block, _XS_LOW + j, to_int(scales[2 * j]) & 15 | (to_int(scales[2 * j + 1]) & 15) << 4)
    high = splat_int(0)
    for j in range(8):
        high = high | (to_int(scales[j]) >> 4) << (2 * j)
    put_half(block, _XS_HIGH, high)


@primitive
def put_xs(block: Pointer, x: Pointer, d: Vector, scales: Pointer) -> None:
    """``d`` in half precision, the whole ``scales`` −32 … 31 of the sub-blocks, and the codes that they give; ``x``
    becomes these, and scales are counted from −32.
    """
    put_half(block, _XS_D, half_bits(d))
    for j in range(8):
        step = reciprocal(d * scales[j])
        for i in range(32 * j, 32 * j + 32):
            x[i] = level_code(step * x[i])
        scales[j] = scales[j] + _f(32)
    _put_xs_scales(block, scales)
    _put_xs_codes(block, x)


@primitive
def _search_xs(x: Pointer, w: Pointer, block: Pointer) -> None:
    scale = vectors(8)
    for j in range(8):
        scale[j] = _scale(offset(x, 32 * j), offset(w, 32 * j))
    value, _ = extreme(8, scale)
    d = -value / _f(32)
    inverse = reciprocal(d)
    for j in range(8):
        scale[j] = clamp(nearest(inverse * scale[j]), _f(-32), _f(31))
    put_xs(block, x, d, scale)


iq4_xs = framed("iq4_xs", "IQ4_XS", _search_xs, by_square)
iq4_xs_weighted = framed("iq4_xs_weighted", "IQ4_XS", _search_xs, by_block_doubled)
