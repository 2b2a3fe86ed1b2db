"""Columns rounded one after the other, with the scales whose errors cost least.

A trial of a scale rounds all columns of its group, each after the errors of those before it were passed on: the sum of
cost · error² is exactly what the group adds to tr(E H Eᵀ), once the columns after it make up for its errors as well as
they can.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.block import reciprocal
from hubquant.quants.cpu.vector.compile import make_kernel, primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    any_lane,
    lanes,
    load,
    offset,
    pointer,
    splat,
    store,
    vectors,
    where,
)
from hubquant.quants.feedback.kernels.passing import PANEL, subtract_products
from hubquant.quants.feedback.kernels.steps import FLOAT8, HALF, HALF_IQ4, POWER, WHOLE, WHOLE_IQ4, Steps

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _LARGEST = _f(0), _f(3e38)
_SLAB = 256  # the most columns that share a scale


def _rounding(name: str, kind: Steps) -> Kernel:
    """``kernel(x, places, passed_on, cost, shape, limits, supers, scales, minima, levels, values, errors)``.

    ``x`` float32 [tiles, n, 16] are the weights after the errors of all columns before ``start`` were passed on.
    ``places`` int64 are the columns start … stop in the order in which they are rounded, counted from ``start``, group
    after group; ``passed_on`` (panels) and ``cost`` are those of the slab's moment in that order. ``shape`` int64 =
    start, stop, columns of a group, trial scales to each side, trial minima to each side. ``supers`` [tiles, 2, 16] are
    d and dmin of columns start … stop; ``scales`` and ``minima`` [tiles, n / group, 16] the first guess for each group,
    and then what was chosen. What was found goes to columns start … stop of ``levels`` and ``values`` [tiles, n, 16],
    and what it differs by from ``x`` to ``errors`` [tiles, stop − start, 16].
    """
    level, step_of, near, _, low_of, near_low, _ = kind

    @primitive
    def found(y: Vector, step: Vector, low: Vector, inverse: Vector, limits: Array) -> Vector:
        """The error of the nearest level."""
        return y - (step * level((y + low) * inverse, limits) - low)

    @primitive
    def trial(
        y: Pointer, errors: Pointer, at: int, group: int, step: Vector, low: Vector, least: Vector, factors: Pointer,
        rows: int, cost: Array, limits: Array,
    ) -> Vector:  # fmt: skip
        """What the group's errors cost, or more than ``least``; ``factors`` are the panels of its own columns."""
        inverse = reciprocal(step)
        total = splat(_ZERO)
        for i in range(0, group, PANEL):
            a, b, c, d = y[at + i], y[at + i + 1], y[at + i + 2], y[at + i + 3]
            panel = offset(factors, (at + i) * rows)
            for k in range(i):
                error = errors[k]
                a = a - error * panel[PANEL * k]
                b = b - error * panel[PANEL * k + 1]
                c = c - error * panel[PANEL * k + 2]
                d = d - error * panel[PANEL * k + 3]
            own = offset(panel, PANEL * i)
            a = found(a, step, low, inverse, limits)
            b = found(b - a * own[1], step, low, inverse, limits)
            c = found(c - a * own[2] - b * own[6], step, low, inverse, limits)
            d = found(d - a * own[3] - b * own[7] - c * own[11], step, low, inverse, limits)
            errors[i], errors[i + 1], errors[i + 2], errors[i + 3] = a, b, c, d
            total = total + cost[at + i] * (a * a)
            total = total + cost[at + i + 1] * (b * b)
            total = total + cost[at + i + 2] * (c * c)
            total = total + cost[at + i + 3] * (d * d)
            if not any_lane(total < least):
                return splat(_LARGEST)
        return total

    def run(
        x: Array,
        places: Array,
        passed_on: Array,
        cost: Array,
        shape: Array,
        limits: Array,
        supers: Array,
        scales: Array,
        minima: Array,
        levels: Array,
        values: Array,
        errors: Array,
    ) -> None:
        tiles, n = x.shape[0], x.shape[1]
        start, stop, group, reach, low_reach = shape[0], shape[1], shape[2], shape[3], shape[4]
        columns = stop - start
        y, made = vectors(_SLAB), vectors(_SLAB)
        for tile in range(tiles):
            row = (tile * n + start) * LANES
            wanted, differing = offset(pointer(x), row), offset(pointer(errors), tile * columns * LANES)
            held, held_values = offset(pointer(levels), row), offset(pointer(values), row)
            d, dmin = load(pointer(supers), 2 * tile * LANES), load(pointer(supers), (2 * tile + 1) * LANES)
            for i in range(columns):
                y[i] = load(wanted, places[i] * LANES)
            for at in range(0, columns, group):
                factors = offset(pointer(passed_on), at * PANEL)
                place = (tile * (n // group) + (start + places[at]) // group) * LANES
                first, first_low = load(pointer(scales), place), load(pointer(minima), place)
                scale, minimum, least = first, first_low, splat(_LARGEST)
                for turn in range(2 * reach + 1):  # from the first guess outwards: what is far off is given up early
                    away = (turn + 1) // 2 if turn % 2 else -(turn // 2)
                    other = near(d, first, away, limits)
                    step = step_of(d, other)
                    for low_turn in range(2 * low_reach + 1):
                        low_away = (low_turn + 1) // 2 if low_turn % 2 else -(low_turn // 2)
                        other_low = near_low(dmin, first_low, step, low_away, limits)
                        lost = trial(
                            y, made, at, group, step, low_of(dmin, other_low), least, factors, columns, cost, limits
                        )
                        better = lost < least
                        least = where(better, lost, least)
                        scale = where(better, other, scale)
                        minimum = where(better, other_low, minimum)
                store(pointer(scales), place, scale)
                store(pointer(minima), place, minimum)
                step, low = step_of(d, scale), low_of(dmin, minimum)
                inverse = reciprocal(step)
                for i in range(at, at + group):
                    nearest = level((y[i] + low) * inverse, limits)
                    value = step * nearest - low
                    error = y[i] - value
                    error = where(absolute(error) < _LARGEST, error, _ZERO)  # others cannot make up for it
                    made[i - at] = error
                    column = places[i] * LANES
                    store(held, column, nearest)
                    store(held_values, column, value)
                    difference = load(wanted, column) - value
                    difference = where(absolute(difference) < _LARGEST, difference, _ZERO)
                    store(differing, column, difference)
                    for k in range(i + 1, at + group):
                        factor = offset(factors, k // PANEL * PANEL * columns + (i - at) * PANEL)
                        y[k] = y[k] - error * factor[k % PANEL]
                subtract_products(lanes(y), lanes(made), group, factors, columns, at + group, columns)

    return make_kernel(run, __name__, name)


whole = _rounding("whole", WHOLE)
whole_iq4 = _rounding("whole_iq4", WHOLE_IQ4)
half = _rounding("half", HALF)
half_iq4 = _rounding("half_iq4", HALF_IQ4)
power = _rounding("power", POWER)
float8 = _rounding("float8", FLOAT8)
