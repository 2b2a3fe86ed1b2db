"""IQ1_S and IQ1_M with a lower error than llama.cpp's: scales are tried with the codebook's entries, not before them.

Errors are weighed as in :mod:`exact.iq1`. Each sub-block tries scales with the best entries for both shifts and keeps
the best by least squares; then d is fitted to the 3-bit scales, and the entries are chosen anew.

The d of least squares makes a row shorter than it was (:func:`refine.growth`). So the entries are chosen for a scale
somewhat smaller than a d somewhat larger, which leaves fewer levels at 0, and then d grows. The first two factors are
where the divergence of the demo model was least before d grew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hubquant.quants.cpu.best.refine import growth, to_half
from hubquant.quants.cpu.best.ternary_search import entry_indices, entry_sums, nearest_entry
from hubquant.quants.cpu.exact.iq1 import put_m, put_s
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import clamp, half_bits, maximum, nearest, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block_twice, by_square, framed
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    any_lane,
    int_vectors,
    offset,
    splat,
    sqrt,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import total

_f = np.float32
_ZERO, _ONE, _HALF, _TWO = _f(0), _f(1), _f(0.5), _f(2)
_TINY = _f(2.0**-30)  # blocks of no larger weights have no scale but 0 in half precision
_SHIFT = _f(0.125)
_STARTS, _FIRST_START, _START_STEP = 2, _f(1.0), _f(0.3)  # in units of the root mean square
_TRIALS = _STARTS + 1
_REFITS = 1
_STRETCH = _f(1.03)  # of the d of least squares
_HUGE = np.finfo(np.float32).max
_UNIT, _COARSE = _f(2.0**-24), _f(2.0**-20)  # of half precision
_SHARE = _f(0.5)  # of the shrinkage that d makes up for
_CHOSEN_AT = _f(0.9)  # of d: the scale the entries are chosen for


class Shape(NamedTuple):
    """``subs`` sub-blocks of ``groups`` groups of 8 weights, of which ``together`` share a shift."""

    subs: int
    groups: int
    together: int


_SHAPE_S, _SHAPE_M = Shape(8, 4, 4), Shape(16, 2, 1)


@primitive
def _sums(
    groups: int, together: int, x: Pointer, w: Pointer, scale: Vector, flips: Array, states: Pointer
) -> tuple[Vector, Vector]:
    """Σ w·v·x and Σ w·v² of the best entries for a scale, with the better shift for each ``together`` groups of 8.

    ``states``, of ``groups``, get bit 16 where the shift is negative.
    """
    inverse = where(scale > _ZERO, _ONE / scale, _ZERO)
    vx = splat(_ZERO)
    vv = splat(_ZERO)
    for start in range(0, groups, together):
        up_x, up_v = splat(_ZERO), splat(_ZERO)
        down_x, down_v = splat(_ZERO), splat(_ZERO)
        below = int_vectors(4)
        for g in range(together):
            at = 8 * (start + g)
            state = nearest_entry(offset(x, at), offset(w, at), inverse, splat(_SHIFT), flips)
            part_x, part_v = entry_sums(offset(x, at), offset(w, at), state, splat(_SHIFT))
            up_x = up_x + part_x
            up_v = up_v + part_v
            states[start + g] = state
            state = nearest_entry(offset(x, at), offset(w, at), inverse, splat(-_SHIFT), flips)
            part_x, part_v = entry_sums(offset(x, at), offset(w, at), state, splat(-_SHIFT))
            down_x = down_x + part_x
            down_v = down_v + part_v
            below[g] = state | 1 << 16
        down = scale * down_v - _TWO * down_x < scale * up_v - _TWO * up_x
        vx = vx + where(down, down_x, up_x)
        vv = vv + where(down, down_v, up_v)
        for g in range(together):
            states[start + g] = where(down, below[g], states[start + g])
    return vx, vv


@primitive
def _search(groups: int, together: int, x: Pointer, w: Pointer, flips: Array) -> Vector:
    """The best scale of a sub-block by least squares."""
    states = int_vectors(4)
    n = 8 * groups
    power = splat(_ZERO)
    for i in range(n):
        power = power + w[i] * x[i] * x[i]
    trial = sqrt(power / total(n, w))
    step = trial * _START_STEP
    trial = trial * _FIRST_START
    scale = splat(_ZERO)
    best = splat(_ZERO)
    for k in range(_TRIALS):
        vx, vv = _sums(groups, together, x, w, trial, flips, states)
        gain = vx / vv * vx
        better = (gain > best) & (vx > _ZERO)
        scale = where(better, vx / vv, scale)
        best = where(better, gain, best)
        trial = trial + step if k + 1 < _STARTS else scale
    return scale


@primitive
def _round_factors(n: int, factors: Pointer, ratio: Vector) -> None:
    """``factors`` times ``ratio`` to the nearest of 1, 3, … 15."""
    for j in range(n):
        factors[j] = _TWO * clamp(nearest(_HALF * (factors[j] * ratio - _ONE)), _ZERO, _f(7)) + _ONE


@primitive
def _normalize(x: Pointer, w: Pointer) -> tuple[Vector, Any]:
    """``x`` / its largest magnitude, and whether that is not 0 in half precision; ``w`` = 1 where no weight counts.
    Returns the magnitude and that.
    """
    _, magnitude = extreme(256, x)
    alive = magnitude > _TINY
    inverse = where(alive, _ONE / magnitude, _ZERO)
    for i in range(256):
        x[i] = x[i] * inverse
    dead = total(256, w) == _ZERO
    for i in range(256):
        w[i] = where(dead, _ONE, w[i])
    return magnitude, alive


@primitive
def _refit(
    shape: Shape, x: Pointer, w: Pointer, step: Vector, flips: Array, factors: Pointer, states: Pointer
) -> Vector:
    """The step by least squares for the entries that ``step`` and the factors f give: Σ f·Σ w·v·x / Σ f²·Σ w·v²."""
    size = 8 * shape.groups
    vx = splat(_ZERO)
    vv = splat(_ZERO)
    for j in range(shape.subs):
        sub, sub_w = offset(x, size * j), offset(w, size * j)
        sub_states = offset(states, shape.groups * j)
        part_x, part_v = _sums(shape.groups, shape.together, sub, sub_w, step * factors[j], flips, sub_states)
        vx = vx + factors[j] * part_x
        vv = vv + factors[j] * factors[j] * part_v
    return where(vx > _ZERO, vx / vv, step)


@primitive
def _price(
    shape: Shape, x: Pointer, w: Pointer, step: Vector, flips: Array, factors: Pointer, states: Pointer
) -> tuple[Vector, Vector]:
    """The error less Σ w·x², Σ s·(s·Σ w·v² − 2·Σ w·v·x), and Σ w·x·x̂ = Σ s·Σ w·v·x, for the scales s = step · factor
    and the entries that suit somewhat smaller ones.
    """
    size = 8 * shape.groups
    error, product = splat(_ZERO), splat(_ZERO)
    for j in range(shape.subs):
        scale = step * factors[j]
        sub, sub_w = offset(x, size * j), offset(w, size * j)
        sub_states = offset(states, shape.groups * j)
        part_x, part_v = _sums(shape.groups, shape.together, sub, sub_w, _CHOSEN_AT * scale, flips, sub_states)
        error = error + scale * (scale * part_v - _TWO * part_x)
        product = product + scale * part_x
    return error, product


@primitive
def _store(
    shape: Shape,
    x: Pointer,
    w: Pointer,
    wanted: Vector,
    inverse: Vector,
    alive: Any,
    flips: Array,
    factors: Pointer,
    states: Pointer,
) -> Vector:
    """The d nearest to ``wanted``, made larger, with the factors and states for it.

    ``x`` are weights times ``inverse``. The unit of the smallest half floats can be too coarse for the nearest d to be
    the best: there its neighbours are tried, and at last the best of the three again.
    """
    scale = vectors(16)
    for j in range(shape.subs):
        scale[j] = factors[j]
    d = to_half(wanted)
    trial = d
    best = splat(_HUGE)
    square, product = splat(_ZERO), splat(_ZERO)
    for i in range(256):
        square = square + w[i] * (x[i] * x[i])
    tries = 4 if any_lane(alive & (d < _COARSE)) else 1
    for k in range(tries):
        if k > 0:
            trial = d if k == 3 else maximum(trial + (_UNIT if k == 1 else _f(-2) * _UNIT), _ZERO)
        for j in range(shape.subs):
            factors[j] = scale[j]
        _round_factors(shape.subs, factors, wanted * reciprocal(trial))
        error, trial_product = _price(shape, x, w, trial * inverse, flips, factors, states)
        better = error < best
        best = where(better, error, best)
        d = where(better, trial, d)
        product = where(better, trial_product, product)
    return to_half(d * growth(_SHARE, square, product))


@primitive
def _fit(shape: Shape, x: Pointer, w: Pointer, flips: Array, factors: Pointer, states: Pointer) -> Vector:
    """d; odd ``factors`` of the sub-blocks, and the ``states`` of all groups."""
    size = 8 * shape.groups
    magnitude, alive = _normalize(x, w)
    inverse = where(alive, _ONE / magnitude, _ZERO)
    largest = splat(_ZERO)
    for j in range(shape.subs):
        factors[j] = _search(shape.groups, shape.together, offset(x, size * j), offset(w, size * j), flips)
        largest = maximum(largest, factors[j])
    step = largest / _f(15)
    _round_factors(shape.subs, factors, reciprocal(step))
    for _ in range(_REFITS):
        step = _refit(shape, x, w, step, flips, factors, states)
    wanted = where(alive, _STRETCH * step * magnitude, _ZERO)
    return _store(shape, x, w, wanted, inverse, alive, flips, factors, states)


@primitive
def _stored(
    subs: int, factors: Pointer, states: Pointer, index: Array, scales: Pointer, down: Pointer, indices: Pointer
) -> None:
    """Factors 1, 3, … 15 as codes 0 … 7; whether the shift of each of the 32 groups is negative, and its entry."""
    for j in range(subs):
        scales[j] = to_int(factors[j]) >> 1
    for g in range(32):
        down[g] = states[g] >> 16
        indices[g] = entry_indices(states[g] & 0xFFFF, index)


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, index: Array, flips: Array) -> None:
    factors, states, scales, down, entries = (
        vectors(8),
        int_vectors(32),
        int_vectors(8),
        int_vectors(32),
        int_vectors(32),
    )
    d = half_bits(_fit(_SHAPE_S, x, w, flips, factors, states))
    _stored(8, factors, states, index, scales, down, entries)
    for j in range(8):
        down[j] = down[4 * j]
    put_s(block, d, scales, down, entries)


@primitive
def _search_m(x: Pointer, w: Pointer, block: Pointer, index: Array, flips: Array) -> None:
    factors, states, scales, down, entries = (
        vectors(16),
        int_vectors(32),
        int_vectors(16),
        int_vectors(32),
        int_vectors(32),
    )
    d = half_bits(_fit(_SHAPE_M, x, w, flips, factors, states))
    _stored(16, factors, states, index, scales, down, entries)
    put_m(block, d, scales, down, entries)


iq1_s_weighted = framed("iq1_s_weighted", "IQ1_S", _search_s, by_block_twice)
iq1_m = framed("iq1_m", "IQ1_M", _search_m, by_square)
iq1_m_weighted = framed("iq1_m_weighted", "IQ1_M", _search_m, by_block_twice)
