"""The mode "best" of the types with a codebook: blocks of 256 weights, each sub-block with a scale (2·code + 1)·d.

Every trial scale meets the whole codebook (:mod:`nearest`). Sub-blocks first look for their scale as a real number,
then d is chosen so that the scales it can give suit all of them; then they look again among the scales of this d, which
is fitted anew by least squares, and at last made larger (:func:`refine.growth`).

``x`` points to 256 magnitudes of 16 blocks (negative where a sign had to be flipped), ``w`` to the weight of each
squared error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hubquant.quants.cpu.best.nearest import Shape, snap
from hubquant.quants.cpu.best.refine import growth
from hubquant.quants.cpu.exact.codebook import entries
from hubquant.quants.cpu.vector.block import clamp, from_half, half_bits, maximum, nearest, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    absolute,
    any_lane,
    float_bits,
    from_bits,
    int_vectors,
    offset,
    splat,
    splat_int,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import total

_f = np.float32
_ZERO, _ONE, _TWO, _HALF = _f(0), _f(1), _f(2), _f(0.5)
_LARGEST = _f(3e38)
_LARGEST_HALF, _LEAST_HALF = _f(65504), _f(2.0**-24)
_FLOOR = _f(1e-7)  # of the mean weight: weights that do not count still get sensible codes
_FEW, _MORE_TRIES = _f(1.6), 16
_SHARE = _f(0.75)  # of the shrinkage that d makes up for; all of it would bring spikes and constants a larger error
_SIZE = 256


@primitive
def normalize(x: Pointer, w: Pointer) -> Vector:
    """Scale ``x`` by a power of two so that its largest magnitude is 1 … 4, and return that power; ``w`` becomes
    positive, and 1 in blocks where it vanishes or overflows.
    """
    largest = splat(_ZERO)
    for i in range(_SIZE):
        largest = maximum(largest, absolute(x[i]))
    exponent = (float_bits(largest) & 0x7F800000) >> 23
    power = from_bits(where(exponent < 254, (exponent ^ 0xFF) - 1, 1) << 23)
    mean = total(_SIZE, w) / _f(_SIZE)
    for i in range(_SIZE):
        x[i] = x[i] * power
        w[i] = where((mean > _ZERO) & (mean < _LARGEST), maximum(w[i], _FLOOR * mean), _ONE)
    return power


@primitive
def _stored(d: Vector, power: Vector) -> Vector:
    """The nearest positive d that half precision holds."""
    half = from_half(half_bits(clamp(d / power, _LEAST_HALF, _LARGEST_HALF)))
    return half * power


@primitive
def _scale_code(scale: Vector, d: Vector) -> Vector:
    return clamp(nearest(_HALF * (scale * reciprocal(d) - _ONE)), _ZERO, _f(15))


class Trials(NamedTuple):
    """Sub-blocks of ``groups`` groups; ``tries`` scales that give the largest magnitude its top level ± ``reach``."""

    groups: int
    tries: int
    reach: np.float32


@primitive
def _real_scale(
    name: str, shape: Shape, trials: Trials, x: Pointer, w: Pointer, keys: Pointer
) -> tuple[Vector, Vector]:
    """The best of the trial scales, each fitted by least squares (Σ w·v·x / Σ w·v²), and of the scale fitted last; and
    Σ w·v² of its values v. Where few weights count, more scales are tried.
    """
    groups, tries, reach = trials
    high = splat(_ZERO)
    mass = splat(_ZERO)
    square = splat(_ZERO)
    for i in range(groups * shape.dim):
        high = maximum(high, x[i])
        mass = mass + w[i]
        square = square + w[i] * w[i]
    few = mass * mass < _FEW * square
    more = _MORE_TRIES if any_lane(few) else 0
    scale = splat(_ZERO)
    best = splat(_ZERO)
    power = splat(_ZERO)
    for step in range(tries + more + 1):
        trial = scale
        if step < tries:
            trial = high / (shape.top + reach * (_f(2 * step) / _f(tries - 1) - _ONE))
        elif step < tries + more:
            trial = high / (shape.top * (_HALF + _f(step - tries) / _f(more - 1)))
        vx, vv = snap(name, shape, groups, x, w, trial, keys)
        better = (vx > _ZERO) & (vx * vx > best * vv)
        if tries <= step < tries + more:
            better = better & few  # a block's bytes must not depend on its neighbours
        scale = where(better, vx / vv, scale)
        best = where(better, scale * vx, best)
        power = where(better | (power == _ZERO), vv, power)
    return scale, power


@primitive
def _common_step(n: int, scale: Pointer, power: Pointer) -> Vector:
    """The d whose multiples 1, 3, … 31 suit ``n`` scales best: the least Σ power·(multiple·d − scale)²."""
    high = splat(_ZERO)
    for j in range(n):
        high = maximum(high, scale[j])
    best = splat(_LARGEST)
    d = high / _f(31)
    for step in range(29):
        trial = high / (_f(21) + _HALF * _f(step))
        cost = splat(_ZERO)
        for j in range(n):
            error = (_TWO * _scale_code(scale[j], trial) + _ONE) * trial - scale[j]
            cost = cost + power[j] * (error * error)
        better = cost < best
        best = where(better, cost, best)
        d = where(better, trial, d)
    return d


@primitive
def _stored_scales(
    name: str,
    shape: Shape,
    groups: int,
    reach: int,
    x: Pointer,
    w: Pointer,
    d: Vector,
    scale: Pointer,
    keys: Pointer,
) -> tuple[Vector, Vector]:
    """For each sub-block the best multiple of ``d`` up to ``reach`` codes from its ``scale``, which becomes that, and
    its ``keys``; ``(Σ w·v·x, Σ w·v²)`` of the block, with v in units of ``d``.
    """
    trial = int_vectors(8)
    size = groups * shape.dim
    dx = splat(_ZERO)
    dd = splat(_ZERO)
    for j in range(_SIZE // size):
        center = _scale_code(scale[j], d)
        sub_keys = offset(keys, groups * j)
        best = splat(-_LARGEST)
        best_multiple = splat(_ONE)
        best_vx = splat(_ZERO)
        best_vv = splat(_ZERO)
        for g in range(groups):
            sub_keys[g] = splat_int(0)
        for step in range(-reach, reach + 1):
            multiple = _TWO * clamp(center + _f(step), _ZERO, _f(15)) + _ONE
            vx, vv = snap(name, shape, groups, offset(x, size * j), offset(w, size * j), multiple * d, trial)
            gain = multiple * d * (_TWO * vx - multiple * d * vv)
            better = gain > best
            best = where(better, gain, best)
            best_multiple = where(better, multiple, best_multiple)
            best_vx = where(better, vx, best_vx)
            best_vv = where(better, vv, best_vv)
            for g in range(groups):
                sub_keys[g] = where(better, trial[g], sub_keys[g])
        scale[j] = best_multiple * d
        dx = dx + best_multiple * best_vx
        dd = dd + best_multiple * best_multiple * best_vv
    return dx, dd


@primitive
def fit_block(
    name: str,
    shape: Shape,
    trials: Trials,
    x: Pointer,
    w: Pointer,
    power: Vector,
    scale: Pointer,
    keys: Pointer,
) -> Vector:
    """d as half precision bits, the codes of the sub-blocks' scales into ``scale`` and the keys of all groups.

    ``power`` is what :func:`normalize` gave. With multiples m of the sub-blocks d is fitted as
    Σ m·Σ w·v·x / Σ m²·Σ w·v², and the error less Σ w·x² is −d·(2·Σ m·Σ w·v·x − d·Σ m²·Σ w·v²).
    """
    groups = trials.groups
    size = groups * shape.dim
    n = _SIZE // size
    norm = vectors(16)
    for j in range(n):
        scale[j], norm[j] = _real_scale(name, shape, trials, offset(x, size * j), offset(w, size * j), keys)
    d = _stored(_common_step(n, scale, norm), power)
    dx = splat(_ZERO)
    dd = splat(_ZERO)
    for step in range(2):
        dx, dd = _stored_scales(name, shape, groups, 1 - step, x, w, d, scale, keys)
        fitted = _stored(dx * reciprocal(dd), power)
        if step == 0:
            for j in range(n):
                scale[j] = scale[j] / d * fitted
            d = fitted
    for j in range(n):
        scale[j] = _scale_code(scale[j], d)
    better = fitted * (_TWO * dx - fitted * dd) > d * (_TWO * dx - d * dd)
    d = where(better, fitted, d)
    square = splat(_ZERO)
    for i in range(_SIZE):
        square = square + w[i] * (x[i] * x[i])
    grown = _stored(d * growth(_SHARE, square, d * dx), power)
    return half_bits(where(grown * (_TWO * dx - grown * dd) > _ZERO, grown / power, _ZERO))


@primitive
def entry_codes(n: int, groups: int, scale: Pointer, keys: Pointer, index: Array, codes: Pointer) -> None:
    """What :func:`fit_block` found as it is stored: ``codes`` of the ``n`` scales, ``keys`` of entries as indices."""
    for j in range(n):
        codes[j] = to_int(scale[j])
    for g in range(groups):
        keys[g] = entries(keys[g], index)
