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
    absolute,
    load,
    offset,
    pointer,
    splat,
    store,
    vectors,
    where,
)
from hubquant.quants.feedback.kernels.passing import subtract_products
from hubquant.quants.feedback.kernels.steps import FLOAT8, HALF, HALF_IQ4, POWER, WHOLE, WHOLE_IQ4, Steps

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _LARGEST = _f(0), _f(3e38)
_GROUP = 256  # the most columns that share a scale


def _rounding(name: str, kind: Steps) -> Kernel:
    """``kernel(x, passed_on, cost, shape, limits, supers, scales, minima, levels, values, errors)``.

    ``x`` float32 [tiles, n, 16], the weights after the errors of all columns before ``start`` were passed on, becomes
    so for all before ``stop``. ``passed_on`` [n, n] and ``cost`` [n] are those of a factor; ``shape`` int64 = start,
    stop, columns of a group, trial scales to each side, trial minima to each side. ``supers`` [tiles, 2, 16] are d and
    dmin of columns start … stop; ``scales`` and ``minima`` [tiles, n / group, 16] the first guess for each group, and
    then what was chosen. What was found goes to columns start … stop of ``levels`` and ``values`` [tiles, n, 16], and
    the errors to ``errors`` [tiles, stop − start, 16].
    """
    level, step_of, near, _, low_of, near_low, _ = kind

    @primitive
    def trial(
        x: Pointer, y: Pointer, at: int, group: int, step: Any, low: Any, passed_on: Array, cost: Array, limits: Array
    ) -> Any:
        inverse = reciprocal(step)
        for i in range(group):
            y[i] = load(x, (at + i) * LANES)
        total = splat(_ZERO)
        for i in range(group):
            error = y[i] - (step * level((y[i] + low) * inverse, limits) - low)
            total = total + cost[at + i] * (error * error)
            for k in range(i + 1, group):
                y[k] = y[k] - error * passed_on[at + i, at + k]
        return total

    def run(
        x: Array,
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
        y = vectors(_GROUP)
        for tile in range(tiles):
            row, made = offset(pointer(x), tile * n * LANES), offset(pointer(errors), tile * (stop - start) * LANES)
            d, dmin = load(pointer(supers), 2 * tile * LANES), load(pointer(supers), (2 * tile + 1) * LANES)
            for at in range(start, stop, group):
                place = (tile * (n // group) + at // group) * LANES
                first, first_low = load(pointer(scales), place), load(pointer(minima), place)
                scale, minimum, least = first, first_low, splat(_LARGEST)
                for away in range(-reach, reach + 1):
                    other = near(d, first, away, limits)
                    step = step_of(d, other)
                    for low_away in range(-low_reach, low_reach + 1):
                        other_low = near_low(dmin, first_low, step, low_away, limits)
                        lost = trial(row, y, at, group, step, low_of(dmin, other_low), passed_on, cost, limits)
                        better = lost < least
                        least = where(better, lost, least)
                        scale = where(better, other, scale)
                        minimum = where(better, other_low, minimum)
                store(pointer(scales), place, scale)
                store(pointer(minima), place, minimum)
                step, low = step_of(d, scale), low_of(dmin, minimum)
                inverse = reciprocal(step)
                for i in range(at, at + group):
                    wanted = load(row, i * LANES)
                    found = level((wanted + low) * inverse, limits)
                    value = step * found - low
                    error = wanted - value
                    error = where(absolute(error) < _LARGEST, error, _ZERO)  # others cannot make up for it
                    store(pointer(levels), (tile * n + i) * LANES, found)
                    store(pointer(values), (tile * n + i) * LANES, value)
                    store(made, (i - start) * LANES, error)
                    for k in range(i + 1, at + group):
                        store(row, k * LANES, load(row, k * LANES) - error * passed_on[i, k])
                subtract_products(row, offset(made, (at - start) * LANES), group, passed_on, at, at + group, stop)

    return make_kernel(run, __name__, name)


whole = _rounding("whole", WHOLE)
whole_iq4 = _rounding("whole_iq4", WHOLE_IQ4)
half = _rounding("half", HALF)
half_iq4 = _rounding("half_iq4", HALF_IQ4)
power = _rounding("power", POWER)
float8 = _rounding("float8", FLOAT8)
