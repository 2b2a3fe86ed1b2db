"""The search for types without minima: scales of either sign, for codes bottom … top."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hubquant.quants.cpu.best.refine import Ends, code, growth, signed_error, to_half
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import clamp, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import Pointer, Vector, absolute, offset, splat, vectors, where

_f = np.float32
_ZERO = _f(0)
_LARGEST = _f(3e38)
_LARGEST_HALF = _f(65504)


@primitive
def _fit(n: int, bottom: np.float32, top: np.float32, x: Pointer, w: Pointer, inverse: Vector) -> tuple[Vector, Vector]:
    """Σ w·x·code and Σ w·code² of the codes that an inverse scale gives."""
    lx = splat(_ZERO)
    ll = splat(_ZERO)
    for i in range(n):
        level = code(inverse * x[i], bottom, top)
        weighted = w[i] * level
        lx = lx + weighted * x[i]
        ll = ll + weighted * level
    return lx, ll


@primitive
def search_signed(
    n: int,
    bottom: np.float32,
    top: np.float32,
    reach: np.float32,
    steps: int,
    x: Pointer,
    w: Pointer,
    start: Vector,
) -> Vector:
    """The best scale by least squares among those that bring the extreme within ±``reach`` of the first or of the last
    code, ``steps`` of each sign; ``start`` where all codes are 0.

    For fixed codes the error of the best scale is Σ w·x² − (Σ w·x·code)² / Σ w·code², so one pass suffices.
    """
    value, _ = extreme(n, x)
    scale = start
    best = splat(_ZERO)
    per_value = reciprocal(value)
    for step in range(2 * steps):
        shift = reach * (_f(2 * (step // 2)) / _f(steps - 1) - _f(1))
        lx, ll = _fit(n, bottom, top, x, w, per_value * (bottom - shift if step % 2 == 0 else top + shift))
        fitted = lx / ll
        gain = fitted * lx
        better = (gain > best) & (gain < _LARGEST) & (absolute(fitted) < _LARGEST_HALF)
        scale = where(better, fitted, scale)
        best = where(better, gain, best)
    return scale


@primitive
def refit(n: int, bottom: np.float32, top: np.float32, x: Pointer, w: Pointer, d: Vector) -> tuple[Vector, Vector]:
    """The error of ``d`` less Σ w·x², and the best d for its codes."""
    lx, ll = _fit(n, bottom, top, x, w, reciprocal(d))
    fitted = lx / ll
    return d * (d * ll - _f(2) * lx), where((fitted < _LARGEST) & (fitted > -_LARGEST), to_half(fitted), d)


class Shape(NamedTuple):
    """``groups`` sub-blocks of ``n`` weights, codes ``bottom`` … ``top``, whole scales ``least`` … ``most``."""

    n: int
    groups: int
    bottom: np.float32
    top: np.float32
    least: np.float32
    most: np.float32


@primitive
def _search_scale(shape: Shape, ends: Ends, x: Pointer, w: Pointer, scale: Vector, moments: Pointer) -> Vector:
    """The best scale by least squares, and its moments Σ w·x·code, Σ w·code².

    ``scale`` puts the extreme at the first code; the candidates put it beyond the first and beyond the last.
    """
    first, last, steps = ends
    moments[0], moments[1] = splat(_ZERO), splat(_ZERO)
    per_code = reciprocal(scale) * (_f(1) / shape.bottom)
    best = splat(_ZERO)
    for step in range(2 * steps):
        shift = first + (last - first) * (_f(step // 2) / _f(steps - 1))
        end = shape.bottom - shift if step % 2 == 0 else shape.top + shift
        lx, ll = _fit(shape.n, shape.bottom, shape.top, x, w, per_code * end)
        fitted = lx / ll
        gain = fitted * lx
        better = (gain > best) & (gain < _LARGEST)
        best = where(better, gain, best)
        scale = where(better, fitted, scale)
        moments[0], moments[1] = where(better, lx, moments[0]), where(better, ll, moments[1])
    return scale


@primitive
def _whole(moments: Pointer, d: Vector, per_d: Vector, shape: Shape) -> tuple[Vector, Vector]:
    """The error less Σ w·x² of the best whole scale s for the codes of the moments, and s; that error is
    (d·s)²·Σ w·code² − 2·d·s·Σ w·x·code.
    """
    fitted = where(moments[1] > _ZERO, moments[0] / moments[1], _ZERO)
    found = code(fitted * per_d, shape.least, shape.most)
    return d * found * (d * found * moments[1] - _f(2) * moments[0]), found


@primitive
def _fit_super(groups: int, moments: Pointer, scales: Pointer, d: Vector) -> Vector:
    """d by least squares: Σ s·Σ w·x·code / Σ s²·Σ w·code²."""
    ss = splat(_ZERO)
    sx = splat(_ZERO)
    for j in range(groups):
        ss = ss + scales[j] * scales[j] * moments[2 * j + 1]
        sx = sx + scales[j] * moments[2 * j]
    fitted = sx / ss
    return where((fitted < _LARGEST) & (fitted > -_LARGEST), to_half(fitted), d)


@primitive
def _keep(n: int, better: Vector, found: Pointer, best: Pointer) -> None:
    for j in range(n):
        best[j] = where(better, found[j], best[j])


@primitive
def _error(shape: Shape, x: Pointer, w: Pointer, d: Vector, scales: Pointer) -> Vector:
    """Σ w·(d·s·code − x)² of all sub-blocks with the best codes."""
    error = splat(_ZERO)
    for j in range(shape.groups):
        sub, sub_w = offset(x, shape.n * j), offset(w, shape.n * j)
        error = error + signed_error(shape.n, shape.bottom, shape.top, sub, sub_w, d * scales[j])
    return error


@primitive
def _extremes(shape: Shape, x: Pointer, scale: Pointer, scales: Pointer) -> Vector:
    """d, whole ``scales``, and the real ones that they stand for, which put the extremes at the first code."""
    for j in range(shape.groups):
        value, _ = extreme(shape.n, offset(x, shape.n * j))
        scale[j] = value / shape.bottom
    value, _ = extreme(shape.groups, scale)
    d = to_half(value / shape.least)
    per_d = reciprocal(d)
    for j in range(shape.groups):
        scales[j] = code(scale[j] * per_d, shape.least, shape.most)
    return d


@primitive
def _start(shape: Shape, moments: Pointer, value: Vector, d: Vector, scales: Pointer) -> Vector:
    """The d with the least error for the codes of the moments, and its whole ``scales``; ``d`` where none is finite.

    Five d around those that make the extreme scale ``value`` the least or the greatest whole one are tried, each fitted
    once to the scales that it gives.
    """
    trial = vectors(16)
    least_excess = splat(_LARGEST)
    for k in range(10):
        other = to_half(value / (shape.least if k % 2 == 0 else shape.most) * (_f(0.9) + _f(0.05) * _f(k // 2)))
        excess = splat(_ZERO)
        for fitting in range(2):
            excess = splat(_ZERO)
            per_d = reciprocal(other)
            for j in range(shape.groups):
                part, trial[j] = _whole(offset(moments, 2 * j), other, per_d, shape)
                excess = excess + part
            if fitting == 0:
                other = _fit_super(shape.groups, moments, trial, other)
        better = excess < least_excess
        least_excess = where(better, excess, least_excess)
        d = where(better, other, d)
        _keep(shape.groups, better, trial, scales)
    return d


@primitive
def _improve(shape: Shape, x: Pointer, w: Pointer, d: Vector, scale: Vector, moments: Pointer) -> Vector:
    """The best whole scale for the codes that ``scale`` and its two neighbours give, and the moments of these codes."""
    trial = vectors(2)
    per_d = reciprocal(d)
    best = splat(_LARGEST)
    middle = scale
    for up in range(-1, 2):
        around = reciprocal(d * clamp(middle + _f(up), shape.least, shape.most))
        trial[0], trial[1] = _fit(shape.n, shape.bottom, shape.top, x, w, around)
        excess, found = _whole(trial, d, per_d, shape)
        better = excess < best
        best = where(better, excess, best)
        scale = where(better, found, scale)
        _keep(2, better, trial, moments)
    return scale


@primitive
def best_scales(shape: Shape, ends: Ends, rounds: int, x: Pointer, w: Pointer, scales: Pointer) -> Vector:
    """d and whole ``scales``: x ≈ d·scale·code.

    The best of what the extremes give and of what the real scales found at these ``ends`` start: each of ``rounds``
    rounds codes for each scale and its two neighbours, and fits d to them.
    """
    n, groups = shape.n, shape.groups
    moments, scale, trial = vectors(32), vectors(16), vectors(16)
    best_d = _extremes(shape, x, scale, scales)
    best = _error(shape, x, w, best_d, scales)
    for j in range(groups):
        sub, sub_w = offset(x, n * j), offset(w, n * j)
        scale[j] = _search_scale(shape, ends, sub, sub_w, scale[j], offset(moments, 2 * j))
        trial[j] = scales[j]
    value, _ = extreme(groups, scale)
    d = _start(shape, moments, value, best_d, trial)
    for step in range(rounds + 1):
        error = _error(shape, x, w, d, trial)
        better = error < best
        best = where(better, error, best)
        best_d = where(better, d, best_d)
        _keep(groups, better, trial, scales)
        if step < rounds:
            for j in range(groups):
                sub, sub_w = offset(x, n * j), offset(w, n * j)
                trial[j] = _improve(shape, sub, sub_w, d, trial[j], offset(moments, 2 * j))
            d = _fit_super(groups, moments, trial, d)
    return best_d


@primitive
def signed_growth(shape: Shape, share: np.float32, x: Pointer, w: Pointer, d: Vector, scales: Pointer) -> Vector:
    """:func:`growth` of d with the codes that ``d`` and ``scales`` give."""
    n, bottom, top = shape.n, shape.bottom, shape.top
    square = splat(_ZERO)
    product = splat(_ZERO)
    for j in range(shape.groups):
        lx, _ = _fit(n, bottom, top, offset(x, n * j), offset(w, n * j), reciprocal(d * scales[j]))
        product = product + d * scales[j] * lx
        for i in range(n * j, n * j + n):
            square = square + w[i] * (x[i] * x[i])
    return growth(share, square, product)
