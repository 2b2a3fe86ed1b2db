"""TQ1_0, TQ2_0, Q1_0 and Q2_0 with scales by least squares, weighted by importance (llama.cpp takes the largest
magnitude, or the mean one, and ignores importance), and but for Q1_0 a little larger (:func:`refine.growth`).

The error is Σ importance·(x̂ − x)².
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hubquant.quants.cpu.best.refine import code, growth, signed_error, to_half
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.exact.ternary import put_base_3
from hubquant.quants.cpu.vector.block import code_planes, half_bits, maximum, minimum, put_half, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import by_importance_if_any, by_one, framed
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import Pointer, Vector, absolute, splat, sqrt, where
from hubquant.quants.cpu.vector.weights import total
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_TINY = _f(2.0**-26)  # blocks of no larger weights have no scale but 0 in half precision
_TQ1_D, _TQ2_D, _Q1_D, _Q2_D = (TYPES[name].offset("d") for name in ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0"))
_put_tq2, _put_q1, _put_q2 = code_planes("TQ2_0"), code_planes("Q1_0"), code_planes("Q2_0")
_LOWEST = _f(0.7)
_REFITS = 2
_SHARE = _f(0.5)  # of the shrinkage that d makes up for; Q1_0's error would exceed that of llama.cpp


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


def _kernels(type: str, search: Callable[[Pointer, Pointer, Pointer], None]) -> tuple[Kernel, Kernel]:
    """Without importance and with it."""
    plain = framed(type.lower(), type, search, by_one, constant=True)
    return plain, framed(f"{type.lower()}_weighted", type, search, by_importance_if_any)


@primitive
def _search_tq1(x: Pointer, w: Pointer, block: Pointer) -> None:
    put_half(block, _TQ1_D, _finish(256, _ONE, x, w))
    put_base_3(block, x)


@primitive
def _search_tq2(x: Pointer, w: Pointer, block: Pointer) -> None:
    put_half(block, _TQ2_D, _finish(256, _ONE, x, w))
    _put_tq2(block, x)


@primitive
def _search_q1(x: Pointer, w: Pointer, block: Pointer) -> None:
    """Signs, and the mean magnitude."""
    put_half(block, _Q1_D, half_bits(to_half(_mean_magnitude(128, x, w))))
    for i in range(128):
        x[i] = where(x[i] >= _ZERO, splat(_ONE), _ZERO)
    _put_q1(block, x)


@primitive
def _search_q2(x: Pointer, w: Pointer, block: Pointer) -> None:
    put_half(block, _Q2_D, _finish(64, _f(2), x, w))
    _put_q2(block, x)


tq1_0, tq1_0_weighted = _kernels("TQ1_0", _search_tq1)
tq2_0, tq2_0_weighted = _kernels("TQ2_0", _search_tq2)
q1_0, q1_0_weighted = _kernels("Q1_0", _search_q1)
q2_0, q2_0_weighted = _kernels("Q2_0", _search_q2)
