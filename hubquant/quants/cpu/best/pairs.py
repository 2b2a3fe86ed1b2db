"""The search of the K types that store a scale and a minimum per sub-block: x ≈ d·s·code − dmin·m, with whole s and m
and half-precision d and dmin.

For given codes the weighted squared error is a quadratic of the sub-block's scale and minimum, and its coefficients are
five sums over the sub-block, the *moments*: Σ w·code², Σ w·code, Σ w, Σ w·code·x, Σ w·x. So one pass over the weights
prices every pair of s and m, and d and dmin are fitted without any further pass.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hubquant.quants.cpu.best.refine import Ends, affine_error, code, growth, to_half
from hubquant.quants.cpu.exact.search import positive
from hubquant.quants.cpu.vector.block import clamp, maximum, minimum, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import Pointer, Vector, offset, splat, vectors, where
from hubquant.quants.cpu.vector.weights import total

_f = np.float32
_ZERO, _ONE, _TWO = _f(0), _f(1), _f(2)
_LARGEST = _f(3e38)
_LARGEST_HALF = _f(65504)
_SINGULAR = _f(1e-5)  # of a 2 × 2 system, relative to the product of its diagonal
_MOMENTS = 5
_SUPER_SCALES = 5
_ROUNDS = 3


class Shape(NamedTuple):
    """``groups`` sub-blocks of ``n`` weights, codes 0 … ``top``, whole scales and minima 0 … ``most``."""

    n: int
    groups: int
    top: np.float32
    most: np.float32


@primitive
def _moments(n: int, top: np.float32, x: Pointer, w: Pointer, inverse: Vector, shift: Vector, found: Pointer) -> None:
    """The moments that depend on the codes, those of ``inverse · x + shift``."""
    level_squares = splat(_ZERO)
    levels = splat(_ZERO)
    products = splat(_ZERO)
    for i in range(n):
        level = code(x[i] * inverse + shift, _ZERO, top)
        weighted = w[i] * level
        levels = levels + weighted
        level_squares = level_squares + weighted * level
        products = products + weighted * x[i]
    found[0], found[1], found[3] = level_squares, levels, products


@primitive
def _excess(moments: Pointer, scale: Vector, low: Vector) -> Vector:
    """The error less Σ w·x²: Σ w·(s·code − m)² − 2·Σ w·(s·code − m)·x for the scale s and the minimum m."""
    return scale * (scale * moments[0] - _TWO * (low * moments[1] + moments[3])) + low * (
        low * moments[2] + _TWO * moments[4]
    )


@primitive
def _keep(better: Vector, found: Pointer, best: Pointer) -> None:
    for k in range(_MOMENTS):
        best[k] = where(better, found[k], best[k])


@primitive
def _range(n: int, top: np.float32, x: Pointer) -> tuple[Vector, Vector]:
    """The scale and minimum ≥ 0 whose codes 0 and ``top`` are the least (or 0) and the largest weight."""
    least = splat(_ZERO)
    most = x[0]
    for i in range(n):
        least = minimum(x[i], least)
        most = maximum(x[i], most)
    return (most - least) / top, -least


@primitive
def search_line(
    shape: Shape, ends: Ends, x: Pointer, w: Pointer, scale: Vector, low: Vector, moments: Pointer
) -> tuple[Vector, Vector]:
    """The best real scale and minimum ≥ 0 by least squares, and their moments.

    ``scale`` and ``low`` span the range of the weights; the candidates place its two ends at all pairs of ``ends``. For
    given codes the best scale s and minimum m solve s·Σ w·code² − m·Σ w·code = Σ w·code·x and
    s·Σ w·code − m·Σ w = Σ w·x; where that m is negative it is 0, and s = Σ w·code·x / Σ w·code².
    """
    n, top = shape.n, shape.top
    first, last, steps = ends
    trial = vectors(5)
    sum_w = splat(_ZERO)
    sum_x = splat(_ZERO)
    for i in range(n):
        sum_w = sum_w + w[i]
        sum_x = sum_x + w[i] * x[i]
    for k in range(_MOMENTS):
        moments[k] = splat(_ZERO)
        trial[k] = splat(_ZERO)
    moments[2], trial[2], moments[4], trial[4] = sum_w, sum_w, sum_x, sum_x
    per_code = reciprocal(scale)
    span_low = low
    best = splat(_ZERO)
    step = (last - first) / _f(steps - 1)
    for k in range(steps * steps):
        below = first + step * _f(k // steps)
        inverse = per_code * (_ONE + (below + (first + step * _f(k % steps))) / top)
        _moments(n, top, x, w, inverse, span_low * inverse - below, trial)
        determinant = sum_w * trial[0] - trial[1] * trial[1]
        fitted_low = (trial[1] * trial[3] - trial[0] * sum_x) / determinant
        bounded = fitted_low < _ZERO
        fitted = where(bounded, trial[3] / trial[0], (sum_w * trial[3] - sum_x * trial[1]) / determinant)
        fitted_low = where(bounded, _ZERO, fitted_low)
        excess = _excess(trial, fitted, fitted_low)
        better = (determinant > _SINGULAR * sum_w * trial[0]) & (excess < best) & (excess > -_LARGEST)
        best = where(better, excess, best)
        scale = where(better, fitted, scale)
        low = where(better, fitted_low, low)
        _keep(better, trial, moments)
    return scale, low


@primitive
def _whole(
    moments: Pointer, d: Vector, dmin: Vector, per_dmin: Vector, most: np.float32, scale: Vector, low: Vector
) -> tuple[Vector, Vector, Vector]:
    """The best of three whole scales s around ``scale``, each with its best whole minimum, the nearest to
    (d·s·Σ w·code − Σ w·x) / (dmin·Σ w), for the codes of the moments: ``(excess, scale, minimum)``.
    """
    known = moments[2] > _ZERO
    best = splat(_LARGEST)
    best_scale = scale
    best_low = low
    for up in range(-1, 2):
        other = clamp(scale + _f(up), _ZERO, most)
        fitted = (d * other * moments[1] - moments[4]) / moments[2]
        other_low = where(known, code(fitted * per_dmin, _ZERO, most), low)
        excess = _excess(moments, d * other, dmin * other_low)
        better = excess < best
        best = where(better, excess, best)
        best_scale = where(better, other, best_scale)
        best_low = where(better, other_low, best_low)
    return best, best_scale, best_low


@primitive
def _fit_super(
    groups: int, moments: Pointer, scales: Pointer, minima: Pointer, d: Vector, dmin: Vector
) -> tuple[Vector, Vector]:
    """d and dmin ≥ 0 by least squares: with sums over the sub-blocks of their scales s, minima m and moments,
    d·Σ s²·Σ w·code² − dmin·Σ s·m·Σ w·code = Σ s·Σ w·code·x and d·Σ s·m·Σ w·code − dmin·Σ m²·Σ w = Σ m·Σ w·x.
    """
    ss = splat(_ZERO)
    sm = splat(_ZERO)
    mm = splat(_ZERO)
    sx = splat(_ZERO)
    mx = splat(_ZERO)
    for j in range(groups):
        sums = offset(moments, _MOMENTS * j)
        s, m = scales[j], minima[j]
        ss = ss + s * s * sums[0]
        sm = sm + s * m * sums[1]
        mm = mm + m * m * sums[2]
        sx = sx + s * sums[3]
        mx = mx + m * sums[4]
    determinant = ss * mm - sm * sm
    regular = determinant > _SINGULAR * ss * mm
    fitted = where(regular, (sx * mm - mx * sm) / determinant, (sx + dmin * sm) / ss)
    fitted_min = where(regular, (sx * sm - mx * ss) / determinant, dmin)
    usable = (fitted > _ZERO) & (fitted < _LARGEST_HALF) & (fitted_min >= _ZERO)
    return where(usable, to_half(fitted), d), where(usable, to_half(fitted_min), dmin)


@primitive
def _start(
    shape: Shape,
    spread: np.float32,
    moments: Pointer,
    mass: Pointer,
    scale: Pointer,
    low: Pointer,
    scales: Pointer,
    minima: Pointer,
) -> tuple[Vector, Vector]:
    """d, dmin and whole ``scales`` and ``minima`` for real ones: the best of several d within ±``spread``."""
    groups, most = shape.groups, shape.most
    trial, trial_low = vectors(16), vectors(16)
    middle = positive(groups, most, scale, mass, scales)
    first_dmin = to_half(positive(groups, most, low, mass, minima))
    best = splat(_LARGEST)
    best_d = to_half(middle)
    best_dmin = first_dmin
    for k in range(_SUPER_SCALES):
        d = to_half(middle * (_ONE + spread * _f(2 * k - _SUPER_SCALES + 1) / _f(_SUPER_SCALES - 1)))
        dmin = first_dmin
        excess = splat(_ZERO)
        for fitting in range(2):
            excess = splat(_ZERO)
            per_d, per_dmin = reciprocal(d), reciprocal(dmin)
            for j in range(groups):
                rounded, rounded_low = code(scale[j] * per_d, _ZERO, most), code(low[j] * per_dmin, _ZERO, most)
                sub, trial[j], trial_low[j] = _whole(
                    offset(moments, _MOMENTS * j), d, dmin, per_dmin, most, rounded, rounded_low
                )
                excess = excess + sub
            if fitting == 0:
                d, dmin = _fit_super(groups, moments, trial, trial_low, d, dmin)
        better = excess < best
        best = where(better, excess, best)
        best_d = where(better, d, best_d)
        best_dmin = where(better, dmin, best_dmin)
        for j in range(groups):
            scales[j] = where(better, trial[j], scales[j])
            minima[j] = where(better, trial_low[j], minima[j])
    return best_d, best_dmin


@primitive
def _improve(
    shape: Shape, x: Pointer, w: Pointer, d: Vector, dmin: Vector, scale: Vector, low: Vector, moments: Pointer
) -> tuple[Vector, Vector]:
    """A better whole scale and minimum: codes are rounded for the present pair and for the pairs one above and one
    below, and the best pair for each of these codes is considered.
    """
    n, top, most = shape.n, shape.top, shape.most
    trial = vectors(5)
    trial[2], trial[4] = moments[2], moments[4]
    per_dmin = reciprocal(dmin)
    best = splat(_LARGEST)
    best_scale = scale
    best_low = low
    for up in range(-1, 2):
        other = clamp(scale + _f(up), _ZERO, most)
        other_low = clamp(low + _f(up), _ZERO, most)
        inverse = reciprocal(d * other)
        _moments(n, top, x, w, inverse, dmin * other_low * inverse, trial)
        excess, found, found_low = _whole(trial, d, dmin, per_dmin, most, other, other_low)
        better = excess < best
        best = where(better, excess, best)
        best_scale = where(better, found, best_scale)
        best_low = where(better, found_low, best_low)
        _keep(better, trial, moments)
    return best_scale, best_low


@primitive
def affine_growth(
    shape: Shape, share: np.float32, x: Pointer, w: Pointer, d: Vector, dmin: Vector, scales: Pointer, minima: Pointer
) -> Vector:
    """:func:`growth` of d and dmin with the codes that these ``scales`` and ``minima`` give."""
    n, top = shape.n, shape.top
    square = splat(_ZERO)
    product = splat(_ZERO)
    for j in range(shape.groups):
        scale, low = d * scales[j], dmin * minima[j]
        inverse = reciprocal(scale)
        for i in range(n * j, n * j + n):
            value = scale * code((x[i] + low) * inverse, _ZERO, top) - low
            square = square + w[i] * (x[i] * x[i])
            product = product + w[i] * (x[i] * value)
    return growth(share, square, product)


@primitive
def _error(shape: Shape, x: Pointer, w: Pointer, d: Vector, dmin: Vector, scales: Pointer, minima: Pointer) -> Vector:
    """Σ w·(d·s·code − dmin·m − x)² of all sub-blocks with the best codes."""
    error = splat(_ZERO)
    for j in range(shape.groups):
        sub, sub_w = offset(x, shape.n * j), offset(w, shape.n * j)
        error = error + affine_error(shape.n, shape.top, sub, sub_w, d * scales[j], dmin * minima[j])
    return error


@primitive
def best_pairs(
    shape: Shape, ends: Ends, spread: np.float32, x: Pointer, w: Pointer, scales: Pointer, minima: Pointer
) -> tuple[Vector, Vector]:
    """d, dmin and whole ``scales`` and ``minima``.

    The best of what the ranges give and of what the real scales and minima of :func:`search_line` start: d within
    ±``spread``, then rounds that choose codes, scales and minima anew, and fit d and dmin to them.
    """
    n, groups, top, most = shape
    moments, mass = vectors(80), vectors(16)
    scale, low, trial, trial_low = vectors(16), vectors(16), vectors(16), vectors(16)
    for j in range(groups):
        scale[j], low[j] = _range(n, top, offset(x, n * j))
        mass[j] = total(n, offset(w, n * j))
    best_d = to_half(positive(groups, most, scale, mass, scales))
    best_dmin = to_half(positive(groups, most, low, mass, minima))
    best = _error(shape, x, w, best_d, best_dmin, scales, minima)
    for j in range(groups):
        sub, sub_w, sums = offset(x, n * j), offset(w, n * j), offset(moments, _MOMENTS * j)
        scale[j], low[j] = search_line(shape, ends, sub, sub_w, scale[j], low[j], sums)
    d, dmin = _start(shape, spread, moments, mass, scale, low, trial, trial_low)
    for step in range(_ROUNDS):
        for j in range(groups):
            sub, sub_w, sums = offset(x, n * j), offset(w, n * j), offset(moments, _MOMENTS * j)
            trial[j], trial_low[j] = _improve(shape, sub, sub_w, d, dmin, trial[j], trial_low[j], sums)
        error = _error(shape, x, w, d, dmin, trial, trial_low)
        better = error < best
        best = where(better, error, best)
        best_d = where(better, d, best_d)
        best_dmin = where(better, dmin, best_dmin)
        for j in range(groups):
            scales[j] = where(better, trial[j], scales[j])
            minima[j] = where(better, trial_low[j], minima[j])
        if step + 1 < _ROUNDS:
            d, dmin = _fit_super(groups, moments, trial, trial_low, d, dmin)
    return best_d, best_dmin
