"""Q2_K … Q6_K: super-blocks of 256 weights; the scales and minima of their sub-blocks are integers times a half-
precision super-scale.

Kernels take ``values`` float32 [blocks, 256] and write ``out`` uint8 [blocks, block_bytes]; the number of blocks is a
multiple of 16. The weighted ones also take ``importance`` float32 [tiles, 256, 16], which repeats every ``tiles`` · 16
blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.block import (
    clamp,
    from_half,
    half_bits,
    load_tile,
    maximum,
    minimum,
    nearest,
    put_bits,
    put_half,
    store_tile,
)
from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.k_scales import put_signed_six_bit_scales, put_six_bit_scales
from hubquant.quants.cpu.search import asymmetric, descent, extreme, positive, symmetric, symmetric_code
from hubquant.quants.cpu.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    byte_vectors,
    offset,
    put_byte,
    splat,
    sqrt,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.weights import error_weights, importance_of, square_weights, sum_squares, total
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_SIZE = 256
_Q2_K, _Q3_K, _Q4_K, _Q5_K, _Q6_K = (TYPES[name].block_bytes for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"))
_Q2_D, _Q2_DMIN, _Q2_SCALES = (TYPES["Q2_K"].offset(name) for name in ("d", "dmin", "scales"))
_Q3_D = TYPES["Q3_K"].offset("d")
_Q4_D, _Q4_DMIN = (TYPES["Q4_K"].offset(name) for name in ("d", "dmin"))  # the same in Q5_K
_Q6_D, _Q6_SCALES = (TYPES["Q6_K"].offset(name) for name in ("d", "scales"))
_Q2_QS = TYPES["Q2_K"].plane("qs")
_Q3_QS, _Q3_HMASK = TYPES["Q3_K"].plane("qs"), TYPES["Q3_K"].plane("hmask")
_Q4_QS = TYPES["Q4_K"].plane("qs")
_Q5_QS, _Q5_QH = TYPES["Q5_K"].plane("qs"), TYPES["Q5_K"].plane("qh")
_Q6_QL, _Q6_QH = TYPES["Q6_K"].plane("ql"), TYPES["Q6_K"].plane("qh")


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


# ---- Q2_K: 16 sub-blocks of 16, 4-bit scales and minima -------------------------------------------------------------


@primitive
def _finish_q2(
    x: Pointer,
    scales: Pointer,
    minima: Pointer,
    d: Vector,
    dmin: Vector,
    inverse: Pointer,
    base: Pointer,
    block: Pointer,
) -> None:
    put_half(block, _Q2_D, d)
    put_half(block, _Q2_DMIN, dmin)
    for j in range(16):
        put_byte(block, _Q2_SCALES + j, to_int(scales[j]) | to_int(minima[j]) << 4)
        _requantize_affine(
            16, _f(3), offset(x, 16 * j), from_half(d) * scales[j], from_half(dmin) * minima[j], inverse[j], base[j]
        )
    put_bits(block, _Q2_QS, x, _SIZE)


@kernel
def q2_k(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(16), byte_vectors(_Q2_K)
    scale, low, inverse, base, scales, minima = (
        vectors(16),
        vectors(16),
        vectors(16),
        vectors(16),
        vectors(16),
        vectors(16),
    )
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for j in range(16):
            sub = offset(x, 16 * j)
            for i in range(16):
                w[i] = absolute(sub[i])
            scale[j], found, inverse[j], base[j] = asymmetric(16, _f(3), sub, w, _f(-0.5), _f(0.1), 15, True)
            low[j] = -found
        d = rounded_to(16, _f(15), scale, scales)
        dmin = rounded_to(16, _f(15), low, minima)
        _finish_q2(x, scales, minima, d, dmin, inverse, base, block)
        store_tile(out, tile, block)


@kernel
def q2_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q2_K)
    scale, low, inverse, base, scales, minima = (
        vectors(16),
        vectors(16),
        vectors(16),
        vectors(16),
        vectors(16),
        vectors(16),
    )
    mass = vectors(16)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, sum_squares(_SIZE, x) / _f(_SIZE))
        for j in range(16):
            sub, sub_w = offset(x, 16 * j), offset(w, 16 * j)
            scale[j], found, inverse[j], base[j] = asymmetric(16, _f(3), sub, sub_w, _f(-0.9), _f(0.05), 36, False)
            low[j] = -found
            mass[j] = total(16, sub_w)
        d = half_bits(positive(16, _f(15), scale, mass, scales))
        dmin = half_bits(positive(16, _f(15), low, mass, minima))
        _finish_q2(x, scales, minima, d, dmin, inverse, base, block)
        store_tile(out, tile, block)


# ---- Q3_K: 16 sub-blocks of 16, signed 6-bit scales ------------------------------------------------------------------


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
    put_bits(block, _Q3_QS, x, _SIZE)
    put_bits(block, _Q3_HMASK, x, _SIZE)


@kernel
def q3_k(values: Array, out: Array) -> None:
    x, codes, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q3_K)
    scale, scales = vectors(16), vectors(16)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for j in range(16):
            scale[j] = descent(16, _f(4), offset(x, 16 * j), offset(codes, 16 * j))
        value, _ = extreme(16, scale)
        alive = value != _ZERO
        inverse = _f(-32) / value
        for j in range(16):
            scales[j] = where(alive, clamp(nearest(inverse * scale[j]), _f(-32), _f(31)) + _f(32), _ZERO)
        d = half_bits(where(alive, _ONE / inverse, _ZERO))
        _finish_q3(x, codes, scales, d, block)
        store_tile(out, tile, block)


@kernel
def q3_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, codes, block = vectors(_SIZE), vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q3_K)
    scale, scales, mass = vectors(16), vectors(16), vectors(16)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, _f(2) * sum_squares(_SIZE, x) / _f(_SIZE))
        for j in range(16):
            sub, sub_w = offset(x, 16 * j), offset(w, 16 * j)
            scale[j], inverse = symmetric(16, _f(4), sub, sub_w)
            mass[j] = total(16, sub_w)
            for i in range(16):
                codes[16 * j + i] = symmetric_code(inverse, _f(4), sub[i])
        d, inverse = symmetric(16, _f(32), scale, mass)
        for j in range(16):
            scales[j] = symmetric_code(inverse, _f(32), scale[j])
        _finish_q3(x, codes, scales, half_bits(d), block)
        store_tile(out, tile, block)


# ---- Q4_K and Q5_K: 8 sub-blocks of 32, 6-bit scales and minima ------------------------------------------------------


@primitive
def _search_32(
    x: Pointer,
    top: np.float32,
    start: np.float32,
    steps: int,
    scales: Pointer,
    minima: Pointer,
    inverse: Pointer,
    base: Pointer,
) -> tuple[Vector, Vector]:
    """The reference search: weights √mean x² + |x|, plain rounding of scales and minima. Returns the bits of d and
    dmin.
    """
    w, scale, low = vectors(32), vectors(8), vectors(8)
    for j in range(8):
        sub = offset(x, 32 * j)
        spread = sqrt(sum_squares(32, sub) / _f(32))
        for i in range(32):
            w[i] = spread + absolute(sub[i])
        scale[j], found, inverse[j], base[j] = asymmetric(32, top, sub, w, start, _f(0.1), steps, False)
        low[j] = -found
    return rounded_to(8, _f(63), scale, scales), rounded_to(8, _f(63), low, minima)


@primitive
def _search_32_weighted(
    x: Pointer, w: Pointer, top: np.float32, scales: Pointer, minima: Pointer, inverse: Pointer, base: Pointer
) -> tuple[Vector, Vector]:
    scale, low, mass = vectors(8), vectors(8), vectors(8)
    for j in range(8):
        sub, sub_w = offset(x, 32 * j), offset(w, 32 * j)
        scale[j], found, inverse[j], base[j] = asymmetric(32, top, sub, sub_w, _f(-0.9), _f(0.05), 36, False)
        low[j] = -found
        mass[j] = total(32, sub_w)
    return half_bits(positive(8, _f(63), scale, mass, scales)), half_bits(positive(8, _f(63), low, mass, minima))


@primitive
def _finish_32(
    x: Pointer,
    top: np.float32,
    scales: Pointer,
    minima: Pointer,
    d: Vector,
    dmin: Vector,
    inverse: Pointer,
    base: Pointer,
    block: Pointer,
) -> None:
    put_half(block, _Q4_D, d)
    put_half(block, _Q4_DMIN, dmin)
    put_six_bit_scales(block, scales, minima)
    for j in range(8):
        _requantize_affine(
            32, top, offset(x, 32 * j), from_half(d) * scales[j], from_half(dmin) * minima[j], inverse[j], base[j]
        )


@kernel
def q4_k(values: Array, out: Array) -> None:
    x, block = vectors(_SIZE), byte_vectors(_Q4_K)
    scales, minima, inverse, base = vectors(8), vectors(8), vectors(8), vectors(8)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        d, dmin = _search_32(x, _f(15), _f(-1), 20, scales, minima, inverse, base)
        _finish_32(x, _f(15), scales, minima, d, dmin, inverse, base, block)
        put_bits(block, _Q4_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q4_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q4_K)
    scales, minima, inverse, base = vectors(8), vectors(8), vectors(8), vectors(8)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, _f(2) * sum_squares(_SIZE, x) / _f(_SIZE))
        d, dmin = _search_32_weighted(x, w, _f(15), scales, minima, inverse, base)
        _finish_32(x, _f(15), scales, minima, d, dmin, inverse, base, block)
        put_bits(block, _Q4_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_k(values: Array, out: Array) -> None:
    x, block = vectors(_SIZE), byte_vectors(_Q5_K)
    scales, minima, inverse, base = vectors(8), vectors(8), vectors(8), vectors(8)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        d, dmin = _search_32(x, _f(31), _f(-0.5), 15, scales, minima, inverse, base)
        _finish_32(x, _f(31), scales, minima, d, dmin, inverse, base, block)
        put_bits(block, _Q5_QS, x, _SIZE)
        put_bits(block, _Q5_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q5_K)
    scales, minima, inverse, base = vectors(8), vectors(8), vectors(8), vectors(8)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, _f(2) * sum_squares(_SIZE, x) / _f(_SIZE))
        d, dmin = _search_32_weighted(x, w, _f(31), scales, minima, inverse, base)
        _finish_32(x, _f(31), scales, minima, d, dmin, inverse, base, block)
        put_bits(block, _Q5_QS, x, _SIZE)
        put_bits(block, _Q5_QH, x, _SIZE)
        store_tile(out, tile, block)


# ---- Q6_K: 16 sub-blocks of 16, signed 8-bit scales ------------------------------------------------------------------


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
    put_bits(block, _Q6_QL, x, _SIZE)
    put_bits(block, _Q6_QH, x, _SIZE)


@primitive
def _search_q6(sub: Pointer, w: Pointer, codes: Pointer) -> Vector:
    scale, inverse = symmetric(16, _f(32), sub, w)
    for i in range(16):
        codes[i] = symmetric_code(inverse, _f(32), sub[i])
    return scale


@kernel
def q6_k(values: Array, out: Array) -> None:
    x, codes, w, scale, block = vectors(_SIZE), vectors(_SIZE), vectors(16), vectors(16), byte_vectors(_Q6_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for j in range(16):
            sub = offset(x, 16 * j)
            square_weights(16, w, sub)
            scale[j] = _search_q6(sub, w, offset(codes, 16 * j))
        _finish_q6(x, scale, codes, block)
        store_tile(out, tile, block)


@kernel
def q6_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, codes, w, scale, block = vectors(_SIZE), vectors(_SIZE), vectors(16), vectors(16), byte_vectors(_Q6_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for j in range(16):
            for i in range(16):
                w[i] = importance_of(importance, tile, 16 * j + i)
            scale[j] = _search_q6(offset(x, 16 * j), w, offset(codes, 16 * j))
        _finish_q6(x, scale, codes, block)
        store_tile(out, tile, block)
