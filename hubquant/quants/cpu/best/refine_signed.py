"""The search for types without minima: scales of either sign, for codes bottom … top."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.refine import code, growth, signed_error, to_half
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


@primitive
def _search_scale(
    n: int,
    bottom: np.float32,
    top: np.float32,
    first: np.float32,
    last: np.float32,
    steps: int,
    x: Pointer,
    w: Pointer,
    scale: Vector,
    moments: Pointer,
) -> Vector:
    """The best scale by least squares and its moments Σ w·x·code, Σ w·code².

    ``scale`` puts the extreme at ``bottom``; the candidates put it ``first`` … ``last`` codes outside of ``bottom`` and
    of ``top``.
    """
    moments[0], moments[1] = splat(_ZERO), splat(_ZERO)
    per_code = reciprocal(scale) * (_f(1) / bottom)
    best = splat(_ZERO)
    for step in range(2 * steps):
        shift = first + (last - first) * (_f(step // 2) / _f(steps - 1))
        lx, ll = _fit(n, bottom, top, x, w, per_code * (bottom - shift if step % 2 == 0 else top + shift))
        fitted = lx / ll
        gain = fitted * lx
        better = (gain > best) & (gain < _LARGEST)
        best = where(better, gain, best)
        scale = where(better, fitted, scale)
        moments[0], moments[1] = where(better, lx, moments[0]), where(better, ll, moments[1])
    return scale


@primitive
def _whole(moments: Pointer, d: Vector, per_d: Vector, least: np.float32, most: np.float32) -> tuple[Vector, Vector]:
    """The error less Σ w·x² of the best whole scale for the codes of the moments, and that scale."""
    fitted = where(moments[1] > _ZERO, moments[0] / moments[1], _ZERO)
    found = code(fitted * per_d, least, most)
    return d * found * (d * found * moments[1] - _f(2) * moments[0]), found


@primitive
def _fit_super(groups: int, moments: Pointer, scales: Pointer, d: Vector) -> Vector:
    """d by least squares."""
    ss = splat(_ZERO)
    sx = splat(_ZERO)
    for j in range(groups):
        ss = ss + scales[j] * scales[j] * moments[2 * j + 1]
        sx = sx + scales[j] * moments[2 * j]
    fitted = sx / ss
    return where((fitted < _LARGEST) & (fitted > -_LARGEST), to_half(fitted), d)


@primitive
def best_scales(
    n: int,
    groups: int,
    bottom: np.float32,
    top: np.float32,
    least: np.float32,
    most: np.float32,
    first: np.float32,
    last: np.float32,
    steps: int,
    rounds: int,
    x: Pointer,
    w: Pointer,
    scales: Pointer,
) -> Vector:
    """d and whole ``scales`` least … most of ``groups`` sub-blocks of ``n`` weights: x ≈ d·scale·code with codes bottom
    … top.

    ``first``, ``last`` and ``steps`` as in :func:`_search_scale`. Five d around those that make the extreme scale
    ``least`` or ``most`` are tried with the codes of the real scales. Each of ``rounds`` then rounds codes for each
    scale and its two neighbours, and fits d to them.
    """
    moments, trial_moments, scale, trial = vectors(32), vectors(2), vectors(16), vectors(16)
    for j in range(groups):
        value, _ = extreme(n, offset(x, n * j))
        scale[j] = value / bottom
    value, _ = extreme(groups, scale)
    best_d = to_half(value / least)
    per_d = reciprocal(best_d)
    best = splat(_ZERO)
    for j in range(groups):
        sub, sub_w = offset(x, n * j), offset(w, n * j)
        scales[j] = code(scale[j] * per_d, least, most)
        best = best + signed_error(n, bottom, top, sub, sub_w, best_d * scales[j])
        scale[j] = _search_scale(n, bottom, top, first, last, steps, sub, sub_w, scale[j], offset(moments, 2 * j))
    value, _ = extreme(groups, scale)
    d = best_d
    least_excess = splat(_LARGEST)
    start = vectors(16)
    for j in range(groups):
        start[j] = scales[j]
    for k in range(10):
        other = to_half(value / (least if k % 2 == 0 else most) * (_f(0.9) + _f(0.05) * _f(k // 2)))
        excess = splat(_ZERO)
        for fitting in range(2):
            excess = splat(_ZERO)
            per_d = reciprocal(other)
            for j in range(groups):
                part, trial[j] = _whole(offset(moments, 2 * j), other, per_d, least, most)
                excess = excess + part
            if fitting == 0:
                other = _fit_super(groups, moments, trial, other)
        better = excess < least_excess
        least_excess = where(better, excess, least_excess)
        d = where(better, other, d)
        for j in range(groups):
            start[j] = where(better, trial[j], start[j])
    for j in range(groups):
        trial[j] = start[j]
    for step in range(rounds + 1):
        error = splat(_ZERO)
        for j in range(groups):
            error = error + signed_error(n, bottom, top, offset(x, n * j), offset(w, n * j), d * trial[j])
        better = error < best
        best = where(better, error, best)
        best_d = where(better, d, best_d)
        for j in range(groups):
            scales[j] = where(better, trial[j], scales[j])
        if step < rounds:
            per_d = reciprocal(d)
            for j in range(groups):
                middle = trial[j]
                sub, sub_w = offset(x, n * j), offset(w, n * j)
                least_part = splat(_LARGEST)
                for up in range(-1, 2):
                    around = reciprocal(d * clamp(middle + _f(up), least, most))
                    trial_moments[0], trial_moments[1] = _fit(
                        n, bottom, top, offset(x, n * j), offset(w, n * j), around
                    )
                    part, found = _whole(trial_moments, d, per_d, least, most)
                    better = part < least_part
                    least_part = where(better, part, least_part)
                    trial[j] = where(better, found, trial[j])
                    for k in range(2):
                        moments[2 * j + k] = where(better, trial_moments[k], moments[2 * j + k])
            d = _fit_super(groups, moments, trial, d)
    return best_d


@primitive
def signed_growth(
    n: int,
    groups: int,
    bottom: np.float32,
    top: np.float32,
    share: np.float32,
    x: Pointer,
    w: Pointer,
    d: Vector,
    scales: Pointer,
) -> Vector:
    """:func:`growth` of d with the codes that ``d`` and ``scales`` give."""
    square = splat(_ZERO)
    product = splat(_ZERO)
    for j in range(groups):
        lx, _ = _fit(n, bottom, top, offset(x, n * j), offset(w, n * j), reciprocal(d * scales[j]))
        product = product + d * scales[j] * lx
        for i in range(n * j, n * j + n):
            square = square + w[i] * (x[i] * x[i])
    return growth(share, square, product)
