"""TQ1_0, TQ2_0, Q1_0 and Q2_0 with scales by least squares, weighted by importance (llama.cpp takes the largest
magnitude, or the mean one, and ignores importance), and but for Q1_0 a little larger (:func:`refine.growth`).

The error is Σ importance·(x̂ − x)².
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.best.refine import code, growth, signed_error, to_half
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.exact.ternary import put_base_3
from hubquant.quants.cpu.vector.block import (
    half_bits,
    load_tile,
    maximum,
    minimum,
    put_bits,
    put_half,
    reciprocal,
    store_tile,
)
from hubquant.quants.cpu.vector.compile import kernel, primitive
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    byte_vectors,
    splat,
    sqrt,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import importance_of, total
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_TINY = _f(2.0**-26)  # blocks of no larger weights have no scale but 0 in half precision
_TQ1_0, _TQ2_0, _Q1_0, _Q2_0 = (TYPES[name] for name in ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"))
_TQ1_BYTES, _TQ1_D = _TQ1_0.block_bytes, _TQ1_0.offset("d")
_TQ2_BYTES, _TQ2_D, _TQ2_QS = _TQ2_0.block_bytes, _TQ2_0.offset("d"), _TQ2_0.plane("qs")
_Q1_BYTES, _Q1_D, _Q1_QS = _Q1_0.block_bytes, _Q1_0.offset("d"), _Q1_0.plane("qs")
_Q2_BYTES, _Q2_D, _Q2_QS = _Q2_0.block_bytes, _Q2_0.offset("d"), _Q2_0.plane("qs")
_LOWEST = _f(0.7)
_REFITS = 2
_SHARE = _f(0.5)  # of the shrinkage that d makes up for; Q1_0's error would exceed that of llama.cpp


@primitive
def _ones(n: int, w: Pointer) -> None:
    for i in range(n):
        w[i] = splat(_ONE)


@primitive
def _importance(n: int, w: Pointer, importance: Array, tile: int) -> None:
    """Equal weights in blocks where nothing is important."""
    for i in range(n):
        w[i] = importance_of(importance, tile, i)
    dead = total(n, w) == _ZERO
    for i in range(n):
        w[i] = where(dead, _ONE, w[i])


@primitive
def _mean_magnitude(n: int, x: Pointer, w: Pointer) -> Vector:
    mass = splat(_ZERO)
    for i in range(n):
        mass = mass + w[i] * absolute(x[i])
    return mass / total(n, w)


@primitive
def _ternary_moments(n: int, x: Pointer, w: Pointer, threshold: Vector) -> tuple[Vector, Vector]:
    """Σ w·|x| and Σ w of the weights whose code is not 0."""
    sum_x = splat(_ZERO)
    sum_w = splat(_ZERO)
    for i in range(n):
        magnitude = absolute(x[i])
        weight = where(magnitude > threshold, w[i], _ZERO)
        sum_x = sum_x + weight * magnitude
        sum_w = sum_w + weight
    return sum_x, sum_w


@primitive
def _ternary_scale(n: int, x: Pointer, w: Pointer) -> Vector:
    """The best d for codes −1, 0, 1 of weights whose largest magnitude is 1.

    Codes are 0 up to a threshold; their best d is the mean magnitude of the others, and its gain over d = 0 is
    (Σ w·|x|)² / Σ w. The best threshold is d / 2, hence between half the mean and half the largest magnitude: five
    in equal ratios, then d and the threshold in turns.
    """
    ratio = sqrt(sqrt(_mean_magnitude(n, x, w)))
    threshold = splat(_HALF)
    d = splat(_ONE)
    best = splat(_ZERO)
    for step in range(5 + _REFITS):
        sum_x, sum_w = _ternary_moments(n, x, w, threshold)
        gain = sum_x / sum_w * sum_x
        better = gain > best
        d = where(better, sum_x / sum_w, d)
        best = where(better, gain, best)
        threshold = threshold * ratio if step < 4 else _HALF * d
    return d


@primitive
def _four_level_fit(n: int, x: Pointer, w: Pointer, trial: Vector) -> tuple[Vector, Vector]:
    """The best d for the codes −1 … 2 that ``trial`` or −``trial`` gives, and its gain (Σ w·x·code)² / Σ w·code² over
    d = 0.
    """
    inverse = _ONE / trial
    up_x, up_w, down_x, down_w = splat(_ZERO), splat(_ZERO), splat(_ZERO), splat(_ZERO)
    for i in range(n):
        whole = code(x[i] * inverse, _f(-2), _f(2))
        up, down = maximum(whole, _f(-1)), minimum(whole, _ONE)
        weighted_up, weighted_down = w[i] * up, w[i] * down
        up_x = up_x + weighted_up * x[i]
        up_w = up_w + weighted_up * up
        down_x = down_x + weighted_down * x[i]
        down_w = down_w + weighted_down * down
    gain, down_gain = up_x / up_w * up_x, down_x / down_w * down_x
    mirrored = down_gain > gain
    return where(mirrored, -down_x / down_w, up_x / up_w), where(mirrored, down_gain, gain)


@primitive
def _four_level_scale(n: int, x: Pointer, w: Pointer) -> Vector:
    """The best d, of either sign, for codes −1 … 2 of weights whose largest magnitude is 1.

    Nine magnitudes from 1 to 0.7 of the mean magnitude, in equal ratios, give the first codes; then d and codes in
    turns.
    """
    ratio = sqrt(sqrt(sqrt(_LOWEST * _mean_magnitude(n, x, w))))
    trial = splat(_ONE)
    d = splat(_ONE)
    best = splat(_ZERO)
    for step in range(9 + _REFITS):
        fitted, gain = _four_level_fit(n, x, w, trial)
        better = gain > best
        d = where(better, fitted, d)
        best = where(better, gain, best)
        trial = trial * ratio if step < 8 else d
    return d


@primitive
def _finish(n: int, top: np.float32, x: Pointer, w: Pointer) -> Vector:
    """Codes, counted from −1, into ``x``; returns the bits of d.

    The scale found is kept where it is better, in half precision, than llama.cpp's, the largest magnitude.
    """
    _, magnitude = extreme(n, x)
    alive = magnitude > _TINY
    inverse = where(alive, _ONE / magnitude, _ZERO)
    for i in range(n):
        x[i] = x[i] * inverse
    first = to_half(magnitude)
    found = to_half(magnitude * (_ternary_scale(n, x, w) if top == _ONE else _four_level_scale(n, x, w)))
    worse = signed_error(n, _f(-1), top, x, w, first * inverse) < signed_error(n, _f(-1), top, x, w, found * inverse)
    d = where(worse, first, found)
    per_code = reciprocal(d * inverse)
    square, product = splat(_ZERO), splat(_ZERO)
    for i in range(n):
        level = code(x[i] * per_code, _f(-1), top)
        square = square + w[i] * (x[i] * x[i])
        product = product + w[i] * (x[i] * level)
        x[i] = level + _ONE
    grown = to_half(d * growth(_SHARE, square, product * (d * inverse)))
    return half_bits(where(alive, grown, _ZERO))


@primitive
def _finish_signs(x: Pointer, w: Pointer, block: Pointer) -> None:
    put_half(block, _Q1_D, half_bits(to_half(_mean_magnitude(128, x, w))))
    for i in range(128):
        x[i] = where(x[i] >= _ZERO, splat(_ONE), _ZERO)
    put_bits(block, _Q1_QS, x, 128)


@kernel
def tq1_0(values: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_TQ1_BYTES)
    _ones(256, w)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        put_half(block, _TQ1_D, _finish(256, _ONE, x, w))
        put_base_3(block, x)
        store_tile(out, tile, block)


@kernel
def tq1_0_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_TQ1_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _importance(256, w, importance, tile)
        put_half(block, _TQ1_D, _finish(256, _ONE, x, w))
        put_base_3(block, x)
        store_tile(out, tile, block)


@kernel
def tq2_0(values: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_TQ2_BYTES)
    _ones(256, w)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        put_half(block, _TQ2_D, _finish(256, _ONE, x, w))
        put_bits(block, _TQ2_QS, x, 256)
        store_tile(out, tile, block)


@kernel
def tq2_0_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_TQ2_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _importance(256, w, importance, tile)
        put_half(block, _TQ2_D, _finish(256, _ONE, x, w))
        put_bits(block, _TQ2_QS, x, 256)
        store_tile(out, tile, block)


@kernel
def q1_0(values: Array, out: Array) -> None:
    x, w, block = vectors(128), vectors(128), byte_vectors(_Q1_BYTES)
    _ones(128, w)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _finish_signs(x, w, block)
        store_tile(out, tile, block)


@kernel
def q1_0_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(128), vectors(128), byte_vectors(_Q1_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _importance(128, w, importance, tile)
        _finish_signs(x, w, block)
        store_tile(out, tile, block)


@kernel
def q2_0(values: Array, out: Array) -> None:
    x, w, block = vectors(64), vectors(64), byte_vectors(_Q2_BYTES)
    _ones(64, w)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        put_half(block, _Q2_D, _finish(64, _f(2), x, w))
        put_bits(block, _Q2_QS, x, 64)
        store_tile(out, tile, block)


@kernel
def q2_0_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(64), vectors(64), byte_vectors(_Q2_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _importance(64, w, importance, tile)
        put_half(block, _Q2_D, _finish(64, _f(2), x, w))
        put_bits(block, _Q2_QS, x, 64)
        store_tile(out, tile, block)
