"""Q2_K, Q4_K, Q5_K and Q6_K with a lower error than llama.cpp's: its search gives the start, :mod:`refine` the end.

Kernels have the arguments of those in :mod:`k_quants`, and measure errors with the weights of llama.cpp's search.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.block import (
    from_half,
    half_bits,
    load_tile,
    put_bits,
    put_half,
    reciprocal,
    store_tile,
)
from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.k_quants import rounded_to
from hubquant.quants.cpu.k_scales import put_six_bit_scales
from hubquant.quants.cpu.refine import code, refine_pairs, to_half
from hubquant.quants.cpu.refine_signed import refine_scales, search_signed, super_error
from hubquant.quants.cpu.search import asymmetric, extreme, positive, symmetric
from hubquant.quants.cpu.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    byte_vectors,
    offset,
    put_byte,
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
_Q2_K, _Q4_K, _Q5_K, _Q6_K = (TYPES[name].block_bytes for name in ("Q2_K", "Q4_K", "Q5_K", "Q6_K"))
_Q2_D, _Q2_DMIN, _Q2_SCALES = (TYPES["Q2_K"].offset(name) for name in ("d", "dmin", "scales"))
_Q4_D, _Q4_DMIN = (TYPES["Q4_K"].offset(name) for name in ("d", "dmin"))  # the same in Q5_K
_Q6_D, _Q6_SCALES = TYPES["Q6_K"].offset("d"), TYPES["Q6_K"].offset("scales")
_Q2_QS = TYPES["Q2_K"].plane("qs")
_Q4_QS = TYPES["Q4_K"].plane("qs")
_Q5_QS, _Q5_QH = TYPES["Q5_K"].plane("qs"), TYPES["Q5_K"].plane("qh")
_Q6_QL, _Q6_QH = TYPES["Q6_K"].plane("ql"), TYPES["Q6_K"].plane("qh")


@primitive
def _affine_codes(
    n: int, groups: int, top: np.float32, x: Pointer, d: Vector, dmin: Vector, scales: Pointer, minima: Pointer
) -> None:
    """Codes into ``x``."""
    for j in range(groups):
        inverse = reciprocal(d * scales[j])
        low = dmin * minima[j]
        for i in range(n * j, n * j + n):
            x[i] = code((x[i] + low) * inverse, _ZERO, top)


@primitive
def _signed_codes(bottom: np.float32, top: np.float32, x: Pointer, d: Vector, scales: Pointer) -> None:
    """Codes of sub-blocks of 16, counted from ``bottom``, into ``x``."""
    for j in range(16):
        inverse = reciprocal(d * scales[j])
        for i in range(16 * j, 16 * j + 16):
            x[i] = code(x[i] * inverse, bottom, top) - bottom


# ---- Q2_K -----------------------------------------------------------------------------------------------------------


@primitive
def _finish_q2(
    x: Pointer, w: Pointer, d: Vector, dmin: Vector, scales: Pointer, minima: Pointer, block: Pointer
) -> None:
    d, dmin = refine_pairs(16, 16, _f(3), _f(15), 3, x, w, d, dmin, scales, minima)
    put_half(block, _Q2_D, half_bits(d))
    put_half(block, _Q2_DMIN, half_bits(dmin))
    for j in range(16):
        put_byte(block, _Q2_SCALES + j, to_int(scales[j]) | to_int(minima[j]) << 4)
    _affine_codes(16, 16, _f(3), x, d, dmin, scales, minima)
    put_bits(block, _Q2_QS, x, _SIZE)


@kernel
def q2_k(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q2_K)
    scale, low, scales, minima = vectors(16), vectors(16), vectors(16), vectors(16)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for i in range(_SIZE):
            w[i] = absolute(x[i])
        for j in range(16):
            sub, sub_w = offset(x, 16 * j), offset(w, 16 * j)
            scale[j], found, _, _ = asymmetric(16, _f(3), sub, sub_w, _f(-0.5), _f(0.1), 15, True)
            low[j] = -found
        d = to_half(from_half(rounded_to(16, _f(15), scale, scales)))
        dmin = to_half(from_half(rounded_to(16, _f(15), low, minima)))
        _finish_q2(x, w, d, dmin, scales, minima, block)
        store_tile(out, tile, block)


@kernel
def q2_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q2_K)
    scale, low, mass, scales, minima = vectors(16), vectors(16), vectors(16), vectors(16), vectors(16)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, sum_squares(_SIZE, x) / _f(_SIZE))
        for j in range(16):
            sub, sub_w = offset(x, 16 * j), offset(w, 16 * j)
            scale[j], found, _, _ = asymmetric(16, _f(3), sub, sub_w, _f(-0.9), _f(0.05), 36, False)
            low[j] = -found
            mass[j] = total(16, sub_w)
        d = to_half(positive(16, _f(15), scale, mass, scales))
        dmin = to_half(positive(16, _f(15), low, mass, minima))
        _finish_q2(x, w, d, dmin, scales, minima, block)
        store_tile(out, tile, block)


# ---- Q4_K and Q5_K --------------------------------------------------------------------------------------------------


@primitive
def _finish_32(
    x: Pointer, w: Pointer, top: np.float32, d: Vector, dmin: Vector, scales: Pointer, minima: Pointer, block: Pointer
) -> None:
    d, dmin = refine_pairs(32, 8, top, _f(63), 3, x, w, d, dmin, scales, minima)
    put_half(block, _Q4_D, half_bits(d))
    put_half(block, _Q4_DMIN, half_bits(dmin))
    put_six_bit_scales(block, scales, minima)
    _affine_codes(32, 8, top, x, d, dmin, scales, minima)


@primitive
def _best_32(x: Pointer, top: np.float32, start: np.float32, steps: int, block: Pointer) -> None:
    w, scale, low, scales, minima = vectors(_SIZE), vectors(8), vectors(8), vectors(8), vectors(8)
    for j in range(8):
        sub, sub_w = offset(x, 32 * j), offset(w, 32 * j)
        spread = sqrt(sum_squares(32, sub) / _f(32))
        for i in range(32):
            sub_w[i] = spread + absolute(sub[i])
        scale[j], found, _, _ = asymmetric(32, top, sub, sub_w, start, _f(0.1), steps, False)
        low[j] = -found
    d = to_half(from_half(rounded_to(8, _f(63), scale, scales)))
    dmin = to_half(from_half(rounded_to(8, _f(63), low, minima)))
    _finish_32(x, w, top, d, dmin, scales, minima, block)


@primitive
def _best_32_weighted(x: Pointer, importance: Array, tile: int, top: np.float32, block: Pointer) -> None:
    w, scale, low, mass = vectors(_SIZE), vectors(8), vectors(8), vectors(8)
    scales, minima = vectors(8), vectors(8)
    error_weights(w, x, importance, tile, _f(2) * sum_squares(_SIZE, x) / _f(_SIZE))
    for j in range(8):
        sub, sub_w = offset(x, 32 * j), offset(w, 32 * j)
        scale[j], found, _, _ = asymmetric(32, top, sub, sub_w, _f(-0.9), _f(0.05), 36, False)
        low[j] = -found
        mass[j] = total(32, sub_w)
    d = to_half(positive(8, _f(63), scale, mass, scales))
    dmin = to_half(positive(8, _f(63), low, mass, minima))
    _finish_32(x, w, top, d, dmin, scales, minima, block)


@kernel
def q4_k(values: Array, out: Array) -> None:
    x, block = vectors(_SIZE), byte_vectors(_Q4_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _best_32(x, _f(15), _f(-1), 20, block)
        put_bits(block, _Q4_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q4_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, block = vectors(_SIZE), byte_vectors(_Q4_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _best_32_weighted(x, importance, tile, _f(15), block)
        put_bits(block, _Q4_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_k(values: Array, out: Array) -> None:
    x, block = vectors(_SIZE), byte_vectors(_Q5_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _best_32(x, _f(31), _f(-0.5), 15, block)
        put_bits(block, _Q5_QS, x, _SIZE)
        put_bits(block, _Q5_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, block = vectors(_SIZE), byte_vectors(_Q5_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _best_32_weighted(x, importance, tile, _f(31), block)
        put_bits(block, _Q5_QS, x, _SIZE)
        put_bits(block, _Q5_QH, x, _SIZE)
        store_tile(out, tile, block)


# ---- Q6_K -----------------------------------------------------------------------------------------------------------


@primitive
def _rounded_to_bytes(scale: Pointer, scales: Pointer, most: np.float32) -> Vector:
    """Scales −128 … 127, so that the extreme becomes −128; returns d."""
    value, _ = extreme(16, scale)
    inverse = where(value != _ZERO, most / value, _ZERO)
    for j in range(16):
        scales[j] = code(inverse * scale[j], _f(-128), _f(127))
    return to_half(reciprocal(inverse))


@primitive
def _best_q6(x: Pointer, w: Pointer, block: Pointer) -> None:
    scale, scales, found, trial = vectors(16), vectors(16), vectors(16), vectors(16)
    for j in range(16):
        sub, sub_w = offset(x, 16 * j), offset(w, 16 * j)
        scale[j], _ = symmetric(16, _f(32), sub, sub_w)
        found[j] = search_signed(16, _f(-32), _f(31), _f(0.9), 5, sub, sub_w, scale[j])
    d = _rounded_to_bytes(scale, scales, _f(-128))
    error = super_error(16, 16, _f(-32), _f(31), x, w, d, scales)
    trial_d = _rounded_to_bytes(found, trial, _f(-119))
    trial_d, trial_error = refine_scales(16, 16, _f(-32), _f(31), _f(-128), _f(127), 6, 2, x, w, trial_d, trial)
    worse = error < trial_error
    d = where(worse, d, trial_d)
    for j in range(16):
        scales[j] = where(worse, scales[j], trial[j])
        put_byte(block, _Q6_SCALES + j, to_int(scales[j]))
    _signed_codes(_f(-32), _f(31), x, d, scales)
    put_half(block, _Q6_D, half_bits(d))
    put_bits(block, _Q6_QL, x, _SIZE)
    put_bits(block, _Q6_QH, x, _SIZE)


@kernel
def q6_k(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q6_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        square_weights(_SIZE, w, x)
        _best_q6(x, w, block)
        store_tile(out, tile, block)


@kernel
def q6_k_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q6_K)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for i in range(_SIZE):
            w[i] = importance_of(importance, tile, i)
        _best_q6(x, w, block)
        store_tile(out, tile, block)
