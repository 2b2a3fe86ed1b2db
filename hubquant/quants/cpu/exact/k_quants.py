"""Q2_K … Q6_K: super-blocks of 256 weights; the scales and minima of their sub-blocks are integers times a half-
precision super-scale.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hubquant.quants.cpu.exact.k_scales import put_signed_six_bit_scales, put_six_bit_scales
from hubquant.quants.cpu.exact.search import asymmetric, descent, extreme, positive, symmetric, symmetric_code
from hubquant.quants.cpu.vector.block import (
    clamp,
    code_planes,
    from_half,
    half_bits,
    maximum,
    minimum,
    nearest,
    put_half,
)
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import (
    by_block,
    by_block_twice,
    by_importance,
    by_magnitude,
    by_spread,
    by_square,
    framed,
    unweighted,
)
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    offset,
    put_byte,
    splat,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import total
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_SIZE = 256
_Q2_SCALES = TYPES["Q2_K"].offset("scales")


# ---- Q2_K, Q4_K, Q5_K: scales and minima ----------------------------------------------------------------------------


@primitive
def _largest(n: int, values: Pointer) -> Vector:
    high = splat(_ZERO)
    for i in range(n):
        high = maximum(values[i], high)
    return high


@primitive
def rounded_to(n: int, top: np.float32, values: Pointer, codes: Pointer) -> Vector:
    """``codes`` = values scaled so that the largest is ``top``; returns the scale's half-precision bits."""
    high = _largest(n, values)
    inverse = where(high > _ZERO, top / high, _ZERO)
    for i in range(n):
        codes[i] = minimum(nearest(inverse * values[i]), top)
    return half_bits(where(high > _ZERO, high / top, _ZERO))


@primitive
def _by_largest(n: int, top: np.float32, values: Pointer, _mass: Pointer, codes: Pointer) -> Vector:
    return rounded_to(n, top, values, codes)


@primitive
def _by_error(n: int, top: np.float32, values: Pointer, mass: Pointer, codes: Pointer) -> Vector:
    return half_bits(positive(n, top, values, mass, codes))


@primitive
def _requantize_affine(
    n: int, top: np.float32, x: Pointer, scale: Vector, low: Vector, inverse: Vector, base: Vector
) -> None:
    """Codes of a sub-block into ``x`` from its rounded scale and minimum ``low`` ≥ 0; where the scale is 0, those the
    search ended with.
    """
    usable = scale != _ZERO
    for i in range(n):
        x[i] = clamp(nearest(where(usable, (x[i] + low) / scale, inverse * (x[i] - base))), _ZERO, top)


@primitive
def _put_four_bit_pairs(block: Pointer, scales: Pointer, minima: Pointer) -> None:
    """16 scales and minima 0 … 15 of Q2_K, a byte for each pair."""
    for j in range(16):
        put_byte(block, _Q2_SCALES + j, to_int(scales[j]) | to_int(minima[j]) << 4)


# codes of sub-blocks: their length, how many, the largest code, the largest scale or minimum, how those are packed
_AFFINE: dict[str, tuple[int, int, np.float32, np.float32, Callable[..., None]]] = {
    "Q2_K": (16, 16, _f(3), _f(15), _put_four_bit_pairs),
    "Q4_K": (32, 8, _f(15), _f(63), put_six_bit_scales),
    "Q5_K": (32, 8, _f(31), _f(63), put_six_bit_scales),
}


def _affine(
    name: str,
    type: str,
    weigh: Callable[..., None],
    start: float,
    delta: float,
    steps: int,
    linear: bool,
    round_scales: Callable[..., Vector],
) -> Kernel:
    """Scale and minimum of each sub-block by ``asymmetric``, rounded to integers by ``round_scales``, then all codes
    anew.
    """
    n, groups, top, most, put_scales = _AFFINE[type]
    d_at, dmin_at = TYPES[type].offset("d"), TYPES[type].offset("dmin")
    first, step = _f(start), _f(delta)
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, w: Pointer, block: Pointer) -> None:
        scale, low, mass, inverse, base = vectors(16), vectors(16), vectors(16), vectors(16), vectors(16)
        scales, minima = vectors(16), vectors(16)
        for j in range(groups):
            sub, sub_w = offset(x, n * j), offset(w, n * j)
            scale[j], found, inverse[j], base[j] = asymmetric(n, top, sub, sub_w, first, step, steps, linear)
            low[j] = -found
            mass[j] = total(n, sub_w)
        d = round_scales(groups, most, scale, mass, scales)
        dmin = round_scales(groups, most, low, mass, minima)
        put_half(block, d_at, d)
        put_half(block, dmin_at, dmin)
        put_scales(block, scales, minima)
        for j in range(groups):
            sub_scale, sub_low = from_half(d) * scales[j], from_half(dmin) * minima[j]
            _requantize_affine(n, top, offset(x, n * j), sub_scale, sub_low, inverse[j], base[j])
        put_codes(block, x)

    return framed(name, type, search, weigh)


q2_k = _affine("q2_k", "Q2_K", by_magnitude, -0.5, 0.1, 15, True, _by_largest)
q2_k_weighted = _affine("q2_k_weighted", "Q2_K", by_block, -0.9, 0.05, 36, False, _by_error)
q4_k = _affine("q4_k", "Q4_K", by_spread, -1, 0.1, 20, False, _by_largest)
q4_k_weighted = _affine("q4_k_weighted", "Q4_K", by_block_twice, -0.9, 0.05, 36, False, _by_error)
q5_k = _affine("q5_k", "Q5_K", by_spread, -0.5, 0.1, 15, False, _by_largest)
q5_k_weighted = _affine("q5_k_weighted", "Q5_K", by_block_twice, -0.9, 0.05, 36, False, _by_error)


# ---- Q3_K: 16 sub-blocks of 16, signed 6-bit scales ------------------------------------------------------------------

_Q3_D = TYPES["Q3_K"].offset("d")
_put_q3_codes = code_planes("Q3_K")


@primitive
def _finish_q3(x: Pointer, fallback: Pointer, scales: Pointer, d: Vector, block: Pointer) -> None:
    """``scales`` 0 … 63; the codes are rounded anew, or those of ``fallback`` where the scale is 0."""
    put_half(block, _Q3_D, d)
    put_signed_six_bit_scales(block, scales)
    for j in range(16):
        scale = from_half(d) * (scales[j] - _f(32))
        for i in range(16 * j, 16 * j + 16):
            code = clamp(nearest(x[i] / scale), _f(-4), _f(3)) + _f(4)
            x[i] = where(scale != _ZERO, code, fallback[i])
    _put_q3_codes(block, x)


@primitive
def _search_q3(x: Pointer, _w: Pointer, block: Pointer) -> None:
    codes, scale, scales = vectors(_SIZE), vectors(16), vectors(16)
    for j in range(0, 16, 4):
        descent(4, 16, _f(4), offset(x, 16 * j), offset(codes, 16 * j), offset(scale, j))
    value, _ = extreme(16, scale)
    alive = value != _ZERO
    inverse = _f(-32) / value
    for j in range(16):
        scales[j] = where(alive, clamp(nearest(inverse * scale[j]), _f(-32), _f(31)) + _f(32), _ZERO)
    _finish_q3(x, codes, scales, half_bits(where(alive, _ONE / inverse, _ZERO)), block)


@primitive
def _search_q3_weighted(x: Pointer, w: Pointer, block: Pointer) -> None:
    codes, scale, scales, mass = vectors(_SIZE), vectors(16), vectors(16), vectors(16)
    for j in range(16):
        sub, sub_w = offset(x, 16 * j), offset(w, 16 * j)
        scale[j], inverse = symmetric(16, _f(4), sub, sub_w, True)
        mass[j] = total(16, sub_w)
        for i in range(16):
            codes[16 * j + i] = symmetric_code(inverse, _f(4), sub[i])
    d, inverse = symmetric(16, _f(32), scale, mass, False)
    for j in range(16):
        scales[j] = symmetric_code(inverse, _f(32), scale[j])
    _finish_q3(x, codes, scales, half_bits(d), block)


q3_k = framed("q3_k", "Q3_K", _search_q3, unweighted)
q3_k_weighted = framed("q3_k_weighted", "Q3_K", _search_q3_weighted, by_block_twice)


# ---- Q6_K: 16 sub-blocks of 16, signed 8-bit scales ------------------------------------------------------------------

_Q6_D, _Q6_SCALES = TYPES["Q6_K"].offset("d"), TYPES["Q6_K"].offset("scales")
_put_q6_codes = code_planes("Q6_K")


@primitive
def _finish_q6(x: Pointer, scale: Pointer, codes: Pointer, block: Pointer) -> None:
    """``scale`` and ``codes`` are what the sub-blocks' searches found; a super-block that is all but zero becomes zero
    bytes.
    """
    value, magnitude = extreme(16, scale)
    alive = magnitude >= _f(1e-15)
    inverse = where(alive, _f(-128) / value, _ZERO)
    d = half_bits(where(alive, _ONE / inverse, _ZERO))
    put_half(block, _Q6_D, d)
    for j in range(16):
        rounded = minimum(nearest(inverse * scale[j]), _f(127))
        put_byte(block, _Q6_SCALES + j, to_int(rounded))
        step = from_half(d) * rounded
        for i in range(16 * j, 16 * j + 16):
            code = clamp(nearest(x[i] / step), _f(-32), _f(31)) + _f(32)
            x[i] = where(alive, where(step != _ZERO, code, codes[i]), _ZERO)
    _put_q6_codes(block, x)


@primitive
def _search_q6(x: Pointer, w: Pointer, block: Pointer) -> None:
    codes, scale = vectors(_SIZE), vectors(16)
    for j in range(16):
        sub = offset(x, 16 * j)
        scale[j], inverse = symmetric(16, _f(32), sub, offset(w, 16 * j), True)
        for i in range(16):
            codes[16 * j + i] = symmetric_code(inverse, _f(32), sub[i])
    _finish_q6(x, scale, codes, block)


q6_k = framed("q6_k", "Q6_K", _search_q6, by_square)
q6_k_weighted = framed("q6_k_weighted", "Q6_K", _search_q6, by_importance)
