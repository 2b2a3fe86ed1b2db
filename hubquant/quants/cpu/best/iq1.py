"""IQ1_S and IQ1_M with a lower error than llama.cpp's: scales are tried with the codebook's entries, not before them.

Errors are weighed as in :mod:`exact.iq1`. Each sub-block tries scales with the best entries for both shifts and keeps
the best by least squares; then d is fitted to the 3-bit scales, and the entries are chosen anew.

The d of least squares makes a row shorter than it was (:func:`refine.growth`). So the entries are chosen for a scale
somewhat smaller than a d somewhat larger, which leaves fewer levels at 0, and then d grows. The first two factors are
where the divergence of the demo model was least before d grew.
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.refine import growth, to_half
from hubquant.quants.cpu.best.ternary_search import entry_sums, indices, nearest_entry
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import clamp, half_bits, maximum, nearest, put_half, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block_twice, by_square, framed
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    any_lane,
    int_vectors,
    offset,
    put_byte,
    splat,
    splat_int,
    sqrt,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import total
from hubquant.quants.formats import TYPES

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
_S, _M = TYPES["IQ1_S"], TYPES["IQ1_M"]
_S_D, _S_QS, _S_QH = (_S.offset(name) for name in ("d", "qs", "qh"))
_M_QS, _M_QH, _M_SCALES = (_M.offset(name) for name in ("qs", "qh", "scales"))


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
def _fit(
    subs: int,
    groups: int,
    together: int,
    x: Pointer,
    w: Pointer,
    flips: Array,
    factors: Pointer,
    states: Pointer,
) -> Vector:
    """d; odd ``factors`` of ``subs`` sub-blocks of ``groups`` groups of 8, and the ``states`` of all groups."""
    n = 8 * groups
    scale = vectors(16)
    _, magnitude = extreme(256, x)
    alive = magnitude > _TINY
    inverse = where(alive, _ONE / magnitude, _ZERO)
    for i in range(256):
        x[i] = x[i] * inverse
    dead = total(256, w) == _ZERO
    for i in range(256):
        w[i] = where(dead, _ONE, w[i])
    largest = splat(_ZERO)
    for j in range(subs):
        factors[j] = _search(groups, together, offset(x, n * j), offset(w, n * j), flips)
        largest = maximum(largest, factors[j])
    step = largest / _f(15)
    _round_factors(subs, factors, reciprocal(step))
    for _ in range(_REFITS):
        vx = splat(_ZERO)
        vv = splat(_ZERO)
        for j in range(subs):
            part_x, part_v = _sums(
                groups,
                together,
                offset(x, n * j),
                offset(w, n * j),
                step * factors[j],
                flips,
                offset(states, groups * j),
            )
            vx = vx + factors[j] * part_x
            vv = vv + factors[j] * factors[j] * part_v
        step = where(vx > _ZERO, vx / vv, step)
    stretched = where(alive, _STRETCH * step * magnitude, _ZERO)
    for j in range(subs):
        scale[j] = factors[j]
    d = to_half(stretched)
    trial = d
    best = splat(_HUGE)
    square, product = splat(_ZERO), splat(_ZERO)
    for i in range(256):
        square = square + w[i] * (x[i] * x[i])
    # the unit of the smallest half floats can be too coarse for the nearest d to be the best
    tries = 4 if any_lane(alive & (d < _COARSE)) else 1
    for k in range(tries):
        if k > 0:
            trial = d if k == 3 else maximum(trial + (_UNIT if k == 1 else _f(-2) * _UNIT), _ZERO)
        for j in range(subs):
            factors[j] = scale[j]
        _round_factors(subs, factors, stretched * reciprocal(trial))
        error, trial_product = splat(_ZERO), splat(_ZERO)
        for j in range(subs):
            at, sub_scale = groups * j, trial * inverse * factors[j]
            part_x, part_v = _sums(
                groups,
                together,
                offset(x, 8 * at),
                offset(w, 8 * at),
                _CHOSEN_AT * sub_scale,
                flips,
                offset(states, at),
            )
            error = error + sub_scale * (sub_scale * part_v - _TWO * part_x)
            trial_product = trial_product + sub_scale * part_x
        better = error < best
        best = where(better, error, best)
        d = where(better, trial, d)
        product = where(better, trial_product, product)
    return to_half(d * growth(_SHARE, square, product))


@primitive
def _iq1_s(x: Pointer, w: Pointer, block: Pointer, index: Array, flips: Array) -> None:
    factors, states = vectors(8), int_vectors(32)
    put_half(block, _S_D, half_bits(_fit(8, 4, 4, x, w, flips, factors, states)))
    for j in range(8):
        high = (to_int(factors[j]) >> 1 | (states[4 * j] >> 16) << 3) << 12
        for g in range(4):
            entry = indices(states[4 * j + g] & 0xFFFF, index)
            put_byte(block, _S_QS + 4 * j + g, entry)
            high = high | (entry >> 8) << (3 * g)
        put_byte(block, _S_QH + 2 * j, high)
        put_byte(block, _S_QH + 2 * j + 1, high >> 8)


@primitive
def _iq1_m(x: Pointer, w: Pointer, block: Pointer, index: Array, flips: Array) -> None:
    factors, states = vectors(16), int_vectors(32)
    d = half_bits(_fit(16, 2, 1, x, w, flips, factors, states))
    for j in range(4):
        word = ((d >> (4 * j)) & 15) << 12
        for k in range(4):
            word = word | (to_int(factors[4 * j + k]) >> 1) << (3 * k)
        put_byte(block, _M_SCALES + 2 * j, word)
        put_byte(block, _M_SCALES + 2 * j + 1, word >> 8)
    for j in range(16):
        high = splat_int(0)
        for g in range(2):
            state = states[2 * j + g]
            entry = indices(state & 0xFFFF, index)
            put_byte(block, _M_QS + 2 * j + g, entry)
            high = high | (entry >> 8 | (state >> 16) << 3) << (4 * g)
        put_byte(block, _M_QH + j, high)


iq1_s_weighted = framed("iq1_s_weighted", "IQ1_S", _iq1_s, by_block_twice)
iq1_m = framed("iq1_m", "IQ1_M", _iq1_m, by_square)
iq1_m_weighted = framed("iq1_m_weighted", "IQ1_M", _iq1_m, by_block_twice)
