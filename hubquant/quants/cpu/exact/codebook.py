"""Fitting 16 blocks at a time to the entries of a codebook (:mod:`vector.grids`).

``x`` are magnitudes in groups of ``dim`` weights; a group's code is the key of a codebook entry, whose level ``l``
stands for 2·l + 1. ``root`` is √w: the distance to neighbours is weighted less sharply than the error of the block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hubquant.quants.cpu.vector.block import clamp, maximum, nearest
from hubquant.quants.cpu.vector.compile import inlined, primitive
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    float_bits,
    int_vectors,
    lane_numbers,
    lanes,
    least,
    load,
    offset,
    pointer,
    splat,
    splat_int,
    to_float,
    to_int,
    vectors,
    where,
)

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
# which groups a block snaps once more with its final scale
MISSES, ALL_IF_ANY_MISSED, ALL_GROUPS = 0, 1, 2
_HUGE = np.finfo(np.float32).max


@inlined
def odd_value(key: Vector, bits: int, i: int) -> Vector:
    """2·l + 1 for level ``i`` of a key."""
    return to_float(((key << 1) >> (bits * i)) & ((2 << bits) - 2) | 1)


@inlined
def rounded_key(dim: int, bits: int, top: np.float32, x: Pointer, inverse: Vector) -> Vector:
    """The key of the nearest levels 0 … top, whether or not it is in the codebook."""
    key = splat_int(0)
    for i in range(dim):
        key = key | to_int(clamp(nearest(_HALF * (inverse * x[i] - _ONE)), _ZERO, top)) << (bits * i)
    return key


@inlined
def best_neighbour(
    lists: Array,
    entry: int,
    dim: int,
    bits: int,
    x: Pointer,
    w: Pointer,
    scale: np.float32,
    odd: bool,
    base: np.float32,
) -> int:
    """The key in a list of neighbours with the least weighted squared error, the first of equals.

    ``x`` and ``w`` point to one lane, 16 floats apart. Levels stand for 2·l + 1 if ``odd``, else for l + ``base``.
    """
    first, count = ~entry >> 5, ~entry & 31
    best = splat(_HUGE)
    order = lane_numbers()
    for v in range(count):
        keys = load(pointer(lists), (first + v) * LANES)
        error = splat(_ZERO)
        for i in range(dim):
            level = (keys >> (bits * i)) & ((1 << bits) - 1)
            value = odd_value(keys, bits, i) if odd else to_float(level) + base
            difference = scale * value - x[i * LANES]
            error = error + w[i * LANES] * difference * difference
        better = error < best
        best = where(better, error, best)
        order = where(better, lane_numbers() + v * LANES, order)
    lowest = float_bits(best) == splat_int(least(float_bits(best)))
    chosen = least(where(lowest, order, 0x7FFFFFFF))
    key: int = lists[first + chosen // LANES, chosen % LANES]
    return key


@inlined
def snapped_key(
    dim: int,
    bits: int,
    top: np.float32,
    x: Pointer,
    root: Pointer,
    scale: Vector,
    inverse: Vector,
    lookup: Array,
    lists: Array,
) -> tuple[Vector, Vector]:
    """The rounded key, or the best of its neighbours where it is not in the codebook; and where it is."""
    keys, scales = int_vectors(1), vectors(1)
    rounded = rounded_key(dim, bits, top, x, inverse)
    keys[0] = rounded
    scales[0] = scale
    key, lane_scale, lane_x, lane_root = lanes(keys), lanes(scales), lanes(x), lanes(root)
    for lane in range(LANES):
        entry = lookup[key[lane]]
        if entry < 0:
            key[lane] = best_neighbour(
                lists, entry, dim, bits, offset(lane_x, lane), offset(lane_root, lane), lane_scale[lane], True, _ONE
            )
    return keys[0], keys[0] == rounded


@inlined
def sums(groups: int, dim: int, bits: int, x: Pointer, w: Pointer, keys: Pointer) -> tuple[Vector, Vector]:
    """Σ w·x·q and Σ w·q² over the groups of a block."""
    qx = splat(_ZERO)
    qq = splat(_ZERO)
    for g in range(groups):
        for i in range(dim):
            q = odd_value(keys[g], bits, i)
            weight = w[g * dim + i]
            qx = qx + weight * x[g * dim + i] * q
            qq = qq + weight * q * q
    return qx, qq


class Trials(NamedTuple):
    """The search of a block of ``groups`` groups of ``dim`` weights, whose keys have ``bits`` for each level.

    It tries 2 · ``reach`` + 1 scales, which put the largest weight at 2·levels − 1 and steps of ``delta`` around it.
    Then ``again`` tells which groups are snapped once more with the best: those whose rounded point was not in the
    codebook (``MISSES``), or all.
    """

    groups: int
    dim: int
    bits: int
    reach: int
    delta: np.float32
    again: int


@primitive
def _search_scale(
    trials: Trials,
    x: Pointer,
    w: Pointer,
    root: Pointer,
    high: Vector,
    start: Vector,
    lookup: Array,
    lists: Array,
    keys: Pointer,
    inside: Pointer,
) -> Vector:
    """The best of the trial scales by least squares, Σ w·q·x / Σ w·q², that with the greatest (Σ w·q·x)² / Σ w·q²; its
    ``keys``, and which of them were rounded points. ``start`` where no trial is of use.
    """
    groups, dim, bits, reach, delta, again = trials
    count = (1 << bits) if dim == 4 else 3
    top, full = _f(count - 1), _f(2 * count - 1)
    trial, trial_inside = int_vectors(8), int_vectors(8)
    scale = start
    best = splat(_ZERO)
    for g in range(groups):
        keys[g] = splat_int(0)
        inside[g] = splat_int(1 if again == MISSES else 0)
    for step in range(-reach, reach + 1):
        inverse = (full + _f(step) * delta) / high
        for g in range(groups):
            key, exact = snapped_key(
                dim, bits, top, offset(x, g * dim), offset(root, g * dim), _ONE / inverse, inverse, lookup, lists
            )
            trial[g] = key
            trial_inside[g] = where(exact, splat_int(1), 0)
        qx, qq = sums(groups, dim, bits, x, w, trial)
        better = (qq > _ZERO) & (qx * qx > best * qq)
        scale = where(better, qx / qq, scale)
        best = where(better, scale * qx, best)
        for g in range(groups):
            keys[g] = where(better, trial[g], keys[g])
            inside[g] = where(better, trial_inside[g], inside[g])
    return scale


@primitive
def _snap_again(
    trials: Trials,
    x: Pointer,
    w: Pointer,
    root: Pointer,
    scale: Vector,
    lookup: Array,
    lists: Array,
    keys: Pointer,
    inside: Pointer,
) -> Vector:
    """The groups that need it snapped with ``scale``, and the scale by least squares that fits the keys then."""
    groups, dim, bits, _, _, again = trials
    top = _f((1 << bits) - 1 if dim == 4 else 2)
    complete = splat_int(1)
    for g in range(groups):
        complete = complete & inside[g]
    usable = scale > _ZERO if again == ALL_GROUPS else (scale > _ZERO) & (complete == 0)
    for g in range(groups):
        key, _ = snapped_key(
            dim, bits, top, offset(x, g * dim), offset(root, g * dim), scale, _ONE / scale, lookup, lists
        )
        replace = usable & (inside[g] == 0) if again == MISSES else usable
        keys[g] = where(replace, key, keys[g])
    qx, qq = sums(groups, dim, bits, x, w, keys)
    return where(usable & (qq > _ZERO), qx / qq, scale)


@primitive
def fit(
    trials: Trials,
    x: Pointer,
    w: Pointer,
    root: Pointer,
    high: Vector,
    start: Vector,
    lookup: Array,
    lists: Array,
    keys: Pointer,
) -> Vector:
    """The scale of a block whose largest weight is ``high``, and its ``keys``.

    ``start`` is the scale where no trial is of use, because no weight counts or the sums underflow; llama.cpp then
    writes codes left from elsewhere, here they are the lowest.
    """
    inside = int_vectors(8)
    scale = _search_scale(trials, x, w, root, high, start, lookup, lists, keys, inside)
    return _snap_again(trials, x, w, root, scale, lookup, lists, keys, inside)


@primitive
def magnitudes(n: int, x: Pointer, w: Pointer, even: bool, values: Pointer, signs: Pointer) -> None:
    """|x| into ``values`` and a byte of sign bits for each group of 8 into ``signs``.

    ``even``: the number of negative signs must be even, so that 7 bits suffice; the weight whose flip costs least turns
    negative where it is odd.
    """
    for g in range(n // 8):
        sign = splat_int(0)
        negatives = splat_int(0)
        flipped = splat_int(0)
        least_cost = w[8 * g] * x[8 * g] * x[8 * g]
        for i in range(8):
            value = x[8 * g + i]
            positive = value >= _ZERO
            values[8 * g + i] = where(positive, value, -value)
            sign = where(positive, sign, sign | 1 << i)
            negatives = where(positive, negatives, negatives ^ 1)
            cost = w[8 * g + i] * value * value
            cheaper = cost < least_cost
            least_cost = where(cheaper, cost, least_cost)
            flipped = where(cheaper, splat_int(i), flipped)
        if even:
            for i in range(8):
                flip = (negatives == 1) & (flipped == i)
                values[8 * g + i] = where(flip, -values[8 * g + i], values[8 * g + i])
                sign = where(flip, sign ^ 1 << i, sign)
            sign = sign & 127
        signs[g] = sign


@primitive
def entries(keys: Vector, lookup: Array) -> Vector:
    """The indices of the codebook entries with these keys."""
    found = int_vectors(1)
    found[0] = keys
    index = lanes(found)
    for lane in range(LANES):
        index[lane] = lookup[index[lane]]
    return found[0]


@primitive
def scale_step(n: int, scale: Pointer) -> Vector:
    """The largest of ``n`` scales stands for 31 steps."""
    high = splat(_ZERO)
    for j in range(n):
        high = maximum(high, scale[j])
    return high / _f(31)


@primitive
def four_bit_scales(n: int, scale: Pointer, step: Vector, codes: Pointer) -> None:
    """Scales as 2·code + 1 steps."""
    inverse = _ONE / step
    for j in range(n):
        code = to_int(clamp(nearest(_HALF * (inverse * scale[j] - _ONE)), _ZERO, _f(15)))
        codes[j] = where(step > _ZERO, code, 0)
