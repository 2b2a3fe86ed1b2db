"""Coordinate descent over the entries of a codebook, the scales and the super-scales; see :mod:`descent`.

The entry of eight columns is chosen again for the weights that would be best there, v − g H⁻¹ of these columns, under
their moment.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.best.refine import to_half
from hubquant.quants.cpu.vector.block import clamp, nearest_small, reciprocal
from hubquant.quants.cpu.vector.compile import make_kernel, primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    any_lane,
    int_vectors,
    lanes,
    load,
    offset,
    pointer,
    splat,
    store,
    to_float,
    to_int,
    vectors,
    where,
)
from hubquant.quants.feedback.kernels.descent import SLAB, along, between, follow, gains, gradients, least
from hubquant.quants.feedback.kernels.entries import EIGHT, EIGHTS, EIGHTS_EVEN, FOURS, FOURS_EVEN, Entries
from hubquant.quants.feedback.kernels.passing import PANEL, subtract_products

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_CLEARLY = _f(1 - 1e-4)  # what single precision can tell of two errors


@primitive
def _step(d: Vector, scale: Vector, limits: Array) -> Vector:
    return d * (limits[2] + limits[3] * scale) * limits[4]


@primitive
def _wanted(
    values: Pointer, gradient: Pointer, at: int, inverse: Array, passed_on: Array, cost: Array, y: Pointer
) -> Vector:
    """The best weights of eight columns into ``y``; what the present values cost more than those."""
    rest = vectors(EIGHT)
    for k in range(EIGHT):
        total = load(values, (at + k) * LANES)
        for j in range(EIGHT):
            total = total - inverse[k, j] * load(gradient, (at + j) * LANES)
        y[k], rest[k] = total, total
    lost = splat(_ZERO)
    for k in range(EIGHT):
        error = rest[k] - load(values, (at + k) * LANES)
        lost = lost + cost[k] * (error * error)
        for j in range(k + 1, EIGHT):
            rest[j] = rest[j] - error * passed_on[k, j]
    return lost


def _descent(name: str, dim: int, of: Entries) -> Kernel:
    """``kernel(weights, moment, inverse, inner, inner_cost, shape, limits, nodes, magnitudes, table, supers, scales,
    entries, signs, values, rest, gradient, products)``.

    As the kernels of :mod:`descent` and :mod:`books`; ``shape`` int64 = columns of a scale, sweeps; ``supers`` [tiles,
    slabs, 2, 16]. Of the moment of each eight columns ``inverse`` [n / 8, 8, 8] is the inverse, ``inner`` [n / 8, 8, 8]
    and ``inner_cost`` [n / 8, 8] are what a factor has as ``passed_on`` and ``cost``.
    """
    value_of, eight = of

    @primitive
    def change(
        i: int, value: Vector, values: Pointer, gradient: Pointer, moved: Pointer, moment: Pointer, rows: int,
        at: int, stop: int,
    ) -> None:  # fmt: skip
        delta = value - load(values, i * LANES)
        store(values, i * LANES, value)
        moved[i - at] = moved[i - at] - delta
        for k in range(at, stop):
            store(gradient, k * LANES, load(gradient, k * LANES) + delta * between(moment, rows, i, k))

    @primitive
    def renew(
        at: int, stop: int, step: Vector, entries: Pointer, signs: Pointer, table: Array, values: Pointer,
        moved: Pointer,
    ) -> None:  # fmt: skip
        """The values of columns whose step changed."""
        for i in range(at, stop):
            entry, minus = to_int(load(entries, i // dim * LANES)), to_int(load(signs, i // dim * LANES))
            value = value_of(step, entry, minus, i % dim, table)
            moved[i - at] = moved[i - at] + (load(values, i * LANES) - value)
            store(values, i * LANES, value)

    @primitive
    def one_scale(
        at: int, stop: int, d: Vector, scales: Pointer, entries: Pointer, signs: Pointer, table: Array,
        values: Pointer, gradient: Pointer, moved: Pointer, direction: Pointer, products: Pointer, moment: Pointer,
        rows: int, limits: Array,
    ) -> None:  # fmt: skip
        scale = load(scales, 0)
        unit = d * limits[3] * limits[4]
        for i in range(at, stop):
            entry, minus = to_int(load(entries, i // dim * LANES)), to_int(load(signs, i // dim * LANES))
            direction[i - at] = value_of(unit, entry, minus, i % dim, table)
        slope, curve = along(direction, products, gradient, moment, rows, at, stop)
        other = clamp(nearest_small(scale + least(slope, curve)), limits[0], limits[1])
        better = gains(other - scale, slope, curve)
        if any_lane(better):
            follow(where(better, other - scale, _ZERO), products, gradient, at, stop)
            scale = where(better, other, scale)
            store(scales, 0, scale)
            renew(at, stop, _step(d, scale, limits), entries, signs, table, values, moved)

    def run(
        weights: Array,
        moment: Array,
        inverse: Array,
        inner: Array,
        inner_cost: Array,
        shape: Array,
        limits: Array,
        nodes: Array,
        magnitudes: Array,
        table: Array,
        supers: Array,
        scales: Array,
        entries: Array,
        signs: Array,
        values: Array,
        rest: Array,
        gradient: Array,
        products: Array,
    ) -> None:
        tiles, n = weights.shape[0], weights.shape[1]
        group, sweeps = shape[0], shape[1]
        moved, direction = vectors(SLAB), vectors(SLAB)
        y, chosen, minus = vectors(EIGHT), int_vectors(2), int_vectors(2)
        scratch, left = pointer(products), pointer(rest)
        for i in range(tiles * n):
            store(left, i * LANES, load(pointer(weights), i * LANES) - load(pointer(values), i * LANES))
        for number in range(sweeps * (n // SLAB)):
            start = number * SLAB % n
            gradients(left, pointer(gradient), n, tiles, pointer(moment), start, start + SLAB)
            own = offset(pointer(moment), start * n + start * PANEL)
            for tile in range(tiles):
                row = (tile * n + start) * LANES
                held, slope = offset(pointer(values), row), offset(pointer(gradient), tile * SLAB * LANES)
                found, found_signs = offset(pointer(entries), row // dim), offset(pointer(signs), row // dim)
                of_slab = offset(pointer(scales), row // group)
                over = offset(pointer(supers), row // SLAB * 2)
                d = load(over, 0)
                for at in range(0, SLAB, group):
                    stop = at + group
                    for i in range(group):
                        moved[i] = splat(_ZERO)
                    scale = offset(of_slab, at // group * LANES)
                    step = _step(d, load(scale, 0), limits)
                    for first in range(at, stop, EIGHT):
                        eighth = (start + first) // EIGHT
                        its_inner, its_cost = inner[eighth], inner_cost[eighth]
                        room = _CLEARLY * _wanted(held, slope, first, inverse[eighth], its_inner, its_cost, y)
                        lost = eight(
                            y, 0, 0, EIGHT, step, room, nodes, magnitudes, table, its_inner, its_cost, chosen, minus
                        )
                        better = lost < room
                        if any_lane(better):
                            for k in range(EIGHT // dim):
                                place = (first // dim + k) * LANES
                                entry = where(better, to_float(chosen[k]), load(found, place))
                                sign = where(better, to_float(minus[k]), load(found_signs, place))
                                store(found, place, entry)
                                store(found_signs, place, sign)
                                for i in range(dim):
                                    value = value_of(step, to_int(entry), to_int(sign), i, table)
                                    change(first + k * dim + i, value, held, slope, moved, own, n, at, stop)
                    one_scale(
                        at, stop, d, scale, found, found_signs, table, held, slope, moved, direction, scratch, own, n,
                        limits,
                    )  # fmt: skip
                    here = offset(own, at * PANEL)
                    subtract_products(slope, lanes(moved), group, here, n, 0, at)
                    subtract_products(slope, lanes(moved), group, here, n, stop, SLAB)
                per_d = reciprocal(d)
                for i in range(SLAB):
                    direction[i] = load(held, i * LANES) * per_d
                along_d, curve = along(direction, scratch, slope, own, n, 0, SLAB)
                other = to_half(d + least(along_d, curve))
                better = gains(other - d, along_d, curve)
                if any_lane(better):
                    d = where(better, other, d)
                    store(over, 0, d)
                    for at in range(0, SLAB, group):
                        step = _step(d, load(of_slab, at // group * LANES), limits)
                        renew(at, at + group, step, found, found_signs, table, held, moved)
                for i in range(SLAB):
                    store(left, row + i * LANES, load(pointer(weights), row + i * LANES) - load(held, i * LANES))

    return make_kernel(run, __name__, name)


eights_even = _descent("eights_even", 8, EIGHTS_EVEN)
eights = _descent("eights", 8, EIGHTS)
fours_even = _descent("fours_even", 4, FOURS_EVEN)
fours = _descent("fours", 4, FOURS)
