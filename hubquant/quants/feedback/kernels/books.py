"""Columns rounded four or eight at once, to the entries of a codebook, with the scales whose errors cost least."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.block import clamp
from hubquant.quants.cpu.vector.compile import make_kernel
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    LANES,
    absolute,
    int_vectors,
    lanes,
    load,
    offset,
    pointer,
    splat,
    splat_int,
    store,
    to_float,
    vectors,
    where,
)
from hubquant.quants.feedback.kernels.entries import (
    EIGHT,
    EIGHTS,
    EIGHTS_EVEN,
    FOURS,
    FOURS_EVEN,
    LARGEST,
    Entries,
)
from hubquant.quants.feedback.kernels.passing import PANEL, subtract_products

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO = _f(0)
_SLAB = 256
_GROUP = 32  # the most columns that share a scale


def _rounding(name: str, dim: int, of: Entries) -> Kernel:
    """``kernel(x, places, passed_on, factors, cost, shape, limits, nodes, magnitudes, table, supers, scales, entries,
    signs, values, errors)``.

    As the kernels of :mod:`columns`, with ``passed_on`` [columns, columns] and its panels, ``factors``; ``shape`` int64
    = start, stop, columns of a scale, trial scales to each side; ``limits`` float32 = least and largest scale, and a,
    b, c of its step d · (a + b · scale) · c. ``nodes`` int32 [nodes, 3] and ``magnitudes`` float32 [nodes] are the tree
    of :func:`book.tree`, ``table`` float32 [entries · dim] the codebook. ``scales`` [tiles, n / group, 16]; what was
    found goes to ``entries`` and ``signs`` [tiles, n / dim, 16], bits as floats, and to ``values`` [tiles, n, 16].
    """
    value_of, eight = of

    def run(
        x: Array,
        places: Array,
        passed_on: Array,
        factors: Array,
        cost: Array,
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
        errors: Array,
    ) -> None:
        tiles, n = x.shape[0], x.shape[1]
        start, stop, group, reach = shape[0], shape[1], shape[2], shape[3]
        columns = stop - start
        y, chosen, minus = vectors(_GROUP), int_vectors(2), int_vectors(2)
        z = vectors(_SLAB)
        held, held_minus = int_vectors(EIGHT), int_vectors(EIGHT)
        per_eight = EIGHT // dim
        for tile in range(tiles):
            row = (tile * n + start) * LANES
            wanted, differing = offset(pointer(x), row), offset(pointer(errors), tile * columns * LANES)
            d = load(pointer(supers), 2 * tile * LANES)
            for i in range(columns):
                z[i] = load(wanted, places[i] * LANES)
            for at in range(0, columns, group):
                natural = start + places[at]
                place = (tile * (n // group) + natural // group) * LANES
                first = load(pointer(scales), place)
                scale, least = first, splat(LARGEST)
                for k in range(group // dim):
                    held[k], held_minus[k] = splat_int(0), splat_int(0)
                for trial in range(2 * reach + 1):  # the first guess, and then ever farther from it
                    away = (trial + 1) // 2 if trial % 2 else -(trial // 2)
                    other = clamp(first + _f(away), limits[0], limits[1])
                    step = d * (limits[2] + limits[3] * other) * limits[4]
                    for i in range(group):
                        y[i] = z[at + i]
                    lost = splat(_ZERO)
                    found, found_minus = int_vectors(EIGHT), int_vectors(EIGHT)
                    for k in range(0, group, EIGHT):
                        lost = lost + eight(
                            y, at, at + k, at + group, step, least - lost, nodes, magnitudes, table, passed_on, cost,
                            chosen, minus,
                        )  # fmt: skip
                        for part in range(per_eight):
                            found[k // dim + part], found_minus[k // dim + part] = chosen[part], minus[part]
                    better = lost < least
                    least = where(better, lost, least)
                    scale = where(better, other, scale)
                    for k in range(group // dim):
                        held[k] = where(better, found[k], held[k])
                        held_minus[k] = where(better, found_minus[k], held_minus[k])
                store(pointer(scales), place, scale)
                step = d * (limits[2] + limits[3] * scale) * limits[4]
                for k in range(group // dim):
                    place = (tile * (n // dim) + natural // dim + k) * LANES
                    store(pointer(entries), place, to_float(held[k]))
                    store(pointer(signs), place, to_float(held_minus[k]))
                    for i in range(dim):
                        column = at + dim * k + i
                        value = value_of(step, held[k], held_minus[k], i, table)
                        error = z[column] - value
                        y[column - at] = where(absolute(error) < LARGEST, error, _ZERO)  # others cannot make up for it
                        there = places[column] * LANES
                        store(pointer(values), row + there, value)
                        difference = load(wanted, there) - value
                        store(differing, there, where(absolute(difference) < LARGEST, difference, _ZERO))
                        for j in range(column + 1, at + group):
                            z[j] = z[j] - y[column - at] * passed_on[column, j]
                own = offset(pointer(factors), at * PANEL)
                subtract_products(lanes(z), lanes(y), group, own, columns, at + group, columns)

    return make_kernel(run, __name__, name)


eights_even = _rounding("eights_even", 8, EIGHTS_EVEN)
eights = _rounding("eights", 8, EIGHTS)
fours_even = _rounding("fours_even", 4, FOURS_EVEN)
fours = _rounding("fours", 4, FOURS)
