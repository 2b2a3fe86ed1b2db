"""Coordinate descent: codes, scales and super-scales changed one at a time where that lowers tr(E H Eᵀ).

With g = (v − w) H, a change of the values v by t · u changes the error by 2 t · (g · u) + t² · (u H uᵀ), which is least
for t = −(g · u) / (u H uᵀ). g of a slab is found anew in each sweep, and kept up to date in the group of columns that
is worked on, and then in their slab.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.best.refine import to_half
from hubquant.quants.cpu.vector.block import reciprocal
from hubquant.quants.cpu.vector.compile import make_kernel, primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
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
from hubquant.quants.feedback.kernels.passing import PANEL, subtract_all, subtract_products
from hubquant.quants.feedback.kernels.steps import FLOAT8, HALF, HALF_IQ4, POWER, WHOLE, WHOLE_IQ4, Steps

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _TWO = _f(0), _f(1), _f(2)
SLAB = 256


@primitive
def along(
    direction: Pointer, products: Pointer, gradient: Pointer, moment: Pointer, rows: int, start: int, stop: int
) -> tuple[Vector, Vector]:
    """g · u and u H uᵀ of ``direction`` [stop − start], and −u H into columns ``start`` … ``stop`` of ``products``."""
    for k in range(start, stop):
        store(products, k * LANES, splat(_ZERO))
    own = offset(moment, start * PANEL)
    subtract_products(products, lanes(direction), stop - start, own, rows, start, stop)
    slope, curve = splat(_ZERO), splat(_ZERO)
    for k in range(start, stop):
        slope = slope + direction[k - start] * load(gradient, k * LANES)
        curve = curve - direction[k - start] * load(products, k * LANES)
    return slope, curve


@primitive
def between(moment: Pointer, rows: int, i: int, k: int) -> np.float32:
    """H of two columns: those of one ``i`` and many ``k`` lie together."""
    entry: np.float32 = moment[i // PANEL * PANEL * rows + k * PANEL + i % PANEL]
    return entry


@primitive
def gradients(rest: Pointer, gradient: Pointer, n: int, tiles: int, moment: Pointer, start: int, stop: int) -> None:
    """(v − w) H into ``gradient`` [tiles, SLAB, 16] for a slab's columns; ``rest`` [tiles, n, 16] is w − v."""
    for i in range(tiles * SLAB):
        store(gradient, i * LANES, splat(_ZERO))
    of_slab = offset(moment, start * n)
    subtract_all(gradient, SLAB * LANES, rest, n * LANES, n, tiles, of_slab, n, 0, stop - start)


@primitive
def least(slope: Vector, curve: Vector) -> Vector:
    """The best change along a direction."""
    return -slope * reciprocal(curve)


@primitive
def gains(change: Vector, slope: Vector, curve: Vector) -> Vector:
    """Where a change along a direction lowers the error."""
    return change * (_TWO * slope + change * curve) < _ZERO


@primitive
def follow(change: Vector, products: Pointer, gradient: Pointer, start: int, stop: int) -> None:
    """g after a change along the direction of ``products``."""
    for k in range(start, stop):
        store(gradient, k * LANES, load(gradient, k * LANES) - change * load(products, k * LANES))


@primitive
def _renew(at: int, stop: int, step: Vector, low: Vector, levels: Pointer, values: Pointer, moved: Pointer) -> None:
    """The values of a group whose step or low changed; ``moved`` counts from its first column."""
    for i in range(at, stop):
        value = step * load(levels, i * LANES) - low
        moved[i - at] = moved[i - at] + (load(values, i * LANES) - value)
        store(values, i * LANES, value)


def _descent(name: str, kind: Steps, with_supers: bool) -> Kernel:
    """``kernel(weights, moment, shape, limits, supers, scales, minima, levels, values, rest, gradient, products)``.

    ``weights`` [tiles, n, 16] are those that ``values`` stand for, ``moment`` the panels [n / 4, n, 4] of H; ``shape``
    int64 = columns of a group, sweeps, whether there are minima. ``supers`` [tiles, slabs, 2, 16], ``scales``,
    ``minima``, ``levels`` and ``values`` are those of :mod:`columns`, and change; ``rest`` [tiles, n, 16], ``gradient``
    [tiles, 256, 16] and ``products`` [256, 16] are for its own use. Primitives count columns from the slab's first.
    """
    level, step_of, _, fit, low_of, _, fit_low = kind

    @primitive
    def codes(
        at: int,
        stop: int,
        step: Vector,
        low: Vector,
        levels: Pointer,
        values: Pointer,
        gradient: Pointer,
        moved: Pointer,
        moment: Pointer,
        rows: int,
        limits: Array,
    ) -> None:
        inverse = reciprocal(step)
        for i in range(at, stop):
            old = load(values, i * LANES)
            wanted = old - load(gradient, i * LANES) / between(moment, rows, i, i)
            found = level((wanted + low) * inverse, limits)
            value = step * found - low
            change = value - old
            if any_lane(change != _ZERO):
                store(levels, i * LANES, found)
                store(values, i * LANES, value)
                moved[i - at] = moved[i - at] - change
                for k in range(at, stop):
                    factor = between(moment, rows, i, k)
                    store(gradient, k * LANES, load(gradient, k * LANES) + change * factor)

    @primitive
    def scale_and_minimum(
        at: int,
        stop: int,
        supers: Pointer,
        scales: Pointer,
        minima: Pointer,
        with_minima: bool,
        levels: Pointer,
        values: Pointer,
        gradient: Pointer,
        moved: Pointer,
        direction: Pointer,
        products: Pointer,
        moment: Pointer,
        rows: int,
        limits: Array,
    ) -> None:
        d, dmin = load(supers, 0), load(supers, LANES)
        scale, minimum = load(scales, 0), load(minima, 0)
        step, low = step_of(d, scale), low_of(dmin, minimum)
        for i in range(at, stop):
            direction[i - at] = load(levels, i * LANES)
        slope, curve = along(direction, products, gradient, moment, rows, at, stop)
        other = fit(d, step + least(slope, curve), limits)
        change = step_of(d, other) - step
        better = gains(change, slope, curve)
        if any_lane(better):
            store(scales, 0, where(better, other, scale))
            follow(where(better, change, _ZERO), products, gradient, at, stop)
            step = where(better, step_of(d, other), step)
            _renew(at, stop, step, low, levels, values, moved)
        if with_minima:
            for i in range(at, stop):
                direction[i - at] = splat(-_ONE)
            slope, curve = along(direction, products, gradient, moment, rows, at, stop)
            other = fit_low(dmin, low + least(slope, curve), limits)
            change = low_of(dmin, other) - low
            better = gains(change, slope, curve)
            if any_lane(better):
                store(minima, 0, where(better, other, minimum))
                follow(where(better, change, _ZERO), products, gradient, at, stop)
                _renew(at, stop, step, where(better, low_of(dmin, other), low), levels, values, moved)

    @primitive
    def super_scale(
        which: int,
        group: int,
        supers: Pointer,
        scales: Pointer,
        minima: Pointer,
        levels: Pointer,
        values: Pointer,
        gradient: Pointer,
        moved: Pointer,
        direction: Pointer,
        products: Pointer,
        moment: Pointer,
        rows: int,
        end: int,
    ) -> None:
        """d, or dmin for ``which`` = 1."""
        for i in range(end):
            j = i // group * LANES
            direction[i] = -load(minima, j) if which else load(scales, j) * load(levels, i * LANES)
        slope, curve = along(direction, products, gradient, moment, rows, 0, end)
        old = load(supers, which * LANES)
        other = to_half(old + least(slope, curve))
        better = gains(other - old, slope, curve)
        if any_lane(better):
            store(supers, which * LANES, where(better, other, old))
            follow(where(better, other - old, _ZERO), products, gradient, 0, end)
            d, dmin = load(supers, 0), load(supers, LANES)
            for at in range(0, end, group):
                j = at // group * LANES
                step, low = step_of(d, load(scales, j)), low_of(dmin, load(minima, j))
                _renew(at, at + group, step, low, levels, values, moved)

    def run(
        weights: Array,
        moment: Array,
        shape: Array,
        limits: Array,
        supers: Array,
        scales: Array,
        minima: Array,
        levels: Array,
        values: Array,
        rest: Array,
        gradient: Array,
        products: Array,
    ) -> None:
        tiles, n = weights.shape[0], weights.shape[1]
        group, sweeps, with_minima = shape[0], shape[1], shape[2] != 0
        slabs = supers.shape[1]
        moved, direction = vectors(SLAB), vectors(SLAB)
        scratch, left = pointer(products), pointer(rest)
        for i in range(tiles * n):
            store(left, i * LANES, load(pointer(weights), i * LANES) - load(pointer(values), i * LANES))
        for number in range(sweeps * slabs):
            slab = number % slabs
            start = slab * SLAB
            columns = min(SLAB, n - start)
            gradients(left, pointer(gradient), n, tiles, pointer(moment), start, start + columns)
            own = offset(pointer(moment), start * n + start * PANEL)
            for tile in range(tiles):
                row = (tile * n + start) * LANES
                found, held = offset(pointer(levels), row), offset(pointer(values), row)
                slope = offset(pointer(gradient), tile * SLAB * LANES)
                first = (tile * n + start) // group * LANES
                over = offset(pointer(supers), (tile * slabs + slab) * 2 * LANES)
                of_slab, minima_of_slab = offset(pointer(scales), first), offset(pointer(minima), first)
                for at in range(0, columns, group):
                    j = at // group * LANES
                    stop = at + group
                    for i in range(group):
                        moved[i] = splat(_ZERO)
                    scale, low = load(of_slab, j), load(minima_of_slab, j)
                    step, low = step_of(load(over, 0), scale), low_of(load(over, LANES), low)
                    codes(at, stop, step, low, found, held, slope, moved, own, n, limits)
                    scale_and_minimum(
                        at,
                        stop,
                        over,
                        offset(of_slab, j),
                        offset(minima_of_slab, j),
                        with_minima,
                        found,
                        held,
                        slope,
                        moved,
                        direction,
                        scratch,
                        own,
                        n,
                        limits,
                    )
                    here = offset(own, at * PANEL)
                    subtract_products(slope, lanes(moved), group, here, n, 0, at)
                    subtract_products(slope, lanes(moved), group, here, n, stop, columns)
                if with_supers:
                    for which in range(2 if with_minima else 1):
                        super_scale(
                            which,
                            group,
                            over,
                            of_slab,
                            minima_of_slab,
                            found,
                            held,
                            slope,
                            moved,
                            direction,
                            scratch,
                            own,
                            n,
                            columns,
                        )
                for i in range(columns):
                    store(left, row + i * LANES, load(pointer(weights), row + i * LANES) - load(held, i * LANES))

    return make_kernel(run, __name__, name)


whole = _descent("whole", WHOLE, with_supers=True)
whole_iq4 = _descent("whole_iq4", WHOLE_IQ4, with_supers=True)
half = _descent("half", HALF, with_supers=False)
half_iq4 = _descent("half_iq4", HALF_IQ4, with_supers=False)
power = _descent("power", POWER, with_supers=False)
float8 = _descent("float8", FLOAT8, with_supers=False)
