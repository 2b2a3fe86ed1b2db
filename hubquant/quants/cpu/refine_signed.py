"""The part of :mod:`refine` for types without minima: scales of either sign, for codes bottom … top."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.block import reciprocal
from hubquant.quants.cpu.compile import primitive
from hubquant.quants.cpu.refine import code, signed_error, to_half
from hubquant.quants.cpu.search import extreme
from hubquant.quants.cpu.simd import Pointer, Vector, offset, splat, vectors, where

_f = np.float32
_ZERO = _f(0)
_LARGEST = _f(3e38)


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
    """The best scale by least squares among ``start``, and those that bring the extreme within ±``reach`` of the first
    or of the last code, ``steps`` of each sign.

    For fixed codes the error of the best scale is Σ w·x² − (Σ w·x·code)² / Σ w·code², so one pass suffices.
    """
    value, _ = extreme(n, x)
    lx, ll = _fit(n, bottom, top, x, w, reciprocal(start))
    known = ll > _ZERO
    scale = where(known, lx / ll, start)
    best = where(known, scale * lx, _ZERO)
    per_value = reciprocal(value)
    for step in range(2 * steps):
        shift = reach * (_f(2 * (step // 2)) / _f(steps - 1) - _f(1))
        lx, ll = _fit(n, bottom, top, x, w, per_value * (bottom - shift if step % 2 == 0 else top + shift))
        gain = lx * lx / ll
        better = (gain > best) & (gain < _LARGEST)
        scale = where(better, lx / ll, scale)
        best = where(better, gain, best)
    return scale


@primitive
def fit_scale(n: int, bottom: np.float32, top: np.float32, x: Pointer, w: Pointer, d: Vector) -> Vector:
    """The best d for the codes that ``d`` gives."""
    lx, ll = _fit(n, bottom, top, x, w, reciprocal(d))
    fitted = lx / ll
    return where((fitted < _LARGEST) & (fitted > -_LARGEST), to_half(fitted), d)


@primitive
def refit_scale(
    n: int, groups: int, bottom: np.float32, top: np.float32, x: Pointer, w: Pointer, d: Vector, scales: Pointer
) -> Vector:
    """d by least squares for the present codes and integer scales."""
    ss = splat(_ZERO)
    sx = splat(_ZERO)
    for j in range(groups):
        lx, ll = _fit(n, bottom, top, offset(x, n * j), offset(w, n * j), reciprocal(d * scales[j]))
        sx = sx + scales[j] * lx
        ss = ss + scales[j] * scales[j] * ll
    fitted = sx / ss
    return where((fitted < _LARGEST) & (fitted > -_LARGEST), to_half(fitted), d)


@primitive
def super_error(
    n: int, groups: int, bottom: np.float32, top: np.float32, x: Pointer, w: Pointer, d: Vector, scales: Pointer
) -> Vector:
    """The error of ``groups`` sub-blocks of ``n`` weights."""
    total = splat(_ZERO)
    for j in range(groups):
        total = total + signed_error(n, bottom, top, offset(x, n * j), offset(w, n * j), d * scales[j])
    return total


@primitive
def refine_scales(
    n: int,
    groups: int,
    bottom: np.float32,
    top: np.float32,
    least: np.float32,
    most: np.float32,
    reach: int,
    rounds: int,
    x: Pointer,
    w: Pointer,
    d: Vector,
    scales: Pointer,
) -> tuple[Vector, Vector]:
    """Improve the integer ``scales`` least … most of ``groups`` sub-blocks of ``n`` weights; returns a better d, and
    the error.

    Rounds as in :func:`refine.refine_pairs`; the first looks at neighbours up to ``reach`` away, and also around the
    scale of other sign that brings the same value to the other end of the codes.
    """
    trial = vectors(16)
    best = splat(_LARGEST)
    best_d = d
    for j in range(groups):
        trial[j] = scales[j]
    for step in range(rounds):
        total = splat(_ZERO)
        for j in range(groups):
            sub, sub_w = offset(x, n * j), offset(w, n * j)
            scale = trial[j]
            error = signed_error(n, bottom, top, sub, sub_w, d * scale)
            mirrored = scale * (bottom / top)
            radius = reach if step == 0 else 1
            for k in range(4 * radius + 2 if step == 0 else 2 * radius + 1):
                side = k > 2 * radius
                other = code((mirrored if side else scale) + _f(k - (3 * radius + 1 if side else radius)), least, most)
                other_error = signed_error(n, bottom, top, sub, sub_w, d * other)
                better = other_error < error
                error = where(better, other_error, error)
                trial[j] = where(better, other, trial[j])
            total = total + error
        better = total < best
        best = where(better, total, best)
        best_d = where(better, d, best_d)
        for j in range(groups):
            scales[j] = where(better, trial[j], scales[j])
        if step + 1 < rounds:
            d = refit_scale(n, groups, bottom, top, x, w, d, trial)
    return best_d, best
