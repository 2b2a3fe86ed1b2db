"""Columns rounded four or eight at once, to the entries of a codebook, with the scales whose errors cost least.

Within a group the error of each column is passed on to the next before its magnitude is chosen, so Σ cost · error² of
an entry is its error under the whole conditional moment of the group. The entries form a tree, a level for each column;
what no lane can gain from is passed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.block import clamp, maximum
from hubquant.quants.cpu.vector.compile import make_kernel, primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.reading import look_up
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    any_lane,
    int_vectors,
    load,
    multiply_int,
    offset,
    pointer,
    splat,
    splat_int,
    store,
    to_float,
    vectors,
    where,
)
from hubquant.quants.feedback.kernels.passing import subtract_products

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _LARGEST = _f(0), _f(1), _f(3e38)
_GROUP, _EIGHT = 32, 8
_EITHER = 2  # parity of signs


def _search(dim: int, even: bool) -> Any:
    """``best(y, at, step, parity, nodes, magnitudes, passed_on, cost, least, entries, signs)``, a primitive.

    ``y`` [dim] are the weights of columns ``at`` …; ``least`` [2] what the best entry found before costs, with an even
    and with an odd number of negative signs, replaced with its ``entries`` and ``signs`` [2] where there is a better
    one. With ``parity`` 0 or 1 only that one is looked for. Where signs are free (not ``even``), all count as even.
    """

    room = _EIGHT * dim

    @primitive
    def walk(
        y: Pointer,
        at: int,
        step: Vector,
        flip: Vector,
        parity: int,
        nodes: Array,
        magnitudes: Array,
        passed_on: Array,
        cost: Array,
        least: Pointer,
        entries: Pointer,
        signs: Pointer,
    ) -> None:
        """Each weight keeps its sign, but for that of column ``flip``."""
        state, total, negative = vectors(room), vectors(dim), int_vectors(dim)
        for k in range(dim):
            state[k] = y[k]
        total[0] = splat(_ZERO)
        negative[0] = splat_int(0)
        i = 0
        while i < nodes.shape[0]:
            depth = nodes[i, 0]
            target = state[_EIGHT * depth + depth]
            below = where(flip == _f(depth), -target, target) < _ZERO
            value = step * magnitudes[i]
            error = target - where(below, -value, value)
            lost = total[depth] + cost[at + depth] * (error * error)
            bound = maximum(least[0], least[1]) if parity == _EITHER else least[parity]
            if any_lane(lost < bound):
                minus = negative[depth] | where(below, splat_int(1 << depth), 0)
                if depth + 1 == dim:
                    odd = (minus ^ minus >> 4) if dim == _EIGHT else minus
                    odd = odd ^ odd >> 2
                    odd = (odd ^ odd >> 1) & (1 if even else 0)
                    for p in range(2 if even else 1):
                        better = (lost < least[p]) & (odd == p)
                        least[p] = where(better, lost, least[p])
                        entries[p] = where(better, nodes[i, 2], entries[p])
                        signs[p] = where(better, minus, signs[p])
                else:
                    total[depth + 1] = lost
                    negative[depth + 1] = minus
                    for k in range(depth + 1, dim):
                        passed = state[_EIGHT * depth + k] - error * passed_on[at + depth, at + k]
                        state[_EIGHT * (depth + 1) + k] = passed
                i += 1
            else:
                i = nodes[i, 1]

    @primitive
    def best(
        y: Pointer,
        at: int,
        step: Vector,
        parity: int,
        nodes: Array,
        magnitudes: Array,
        passed_on: Array,
        cost: Array,
        least: Pointer,
        entries: Pointer,
        signs: Pointer,
    ) -> None:
        flip = splat(-_ONE)
        walk(y, at, step, flip, parity, nodes, magnitudes, passed_on, cost, least, entries, signs)
        if even:
            second, smallest, next_one = flip, splat(_LARGEST), splat(_LARGEST)
            for k in range(dim):
                size = cost[at + k] * absolute(y[k])
                first = size < smallest
                between = size < next_one
                second = where(first, flip, where(between, _f(k), second))
                next_one = where(first, smallest, where(between, size, next_one))
                flip = where(first, _f(k), flip)
                smallest = where(first, size, smallest)
            walk(y, at, step, flip, parity, nodes, magnitudes, passed_on, cost, least, entries, signs)
            walk(y, at, step, second, parity, nodes, magnitudes, passed_on, cost, least, entries, signs)

    return best


def _rounding(name: str, dim: int, even: bool) -> Kernel:
    """``kernel(x, passed_on, cost, shape, limits, nodes, magnitudes, table, supers, scales, entries, signs, values,
    errors)``.

    As the kernels of :mod:`columns`; ``shape`` int64 = start, stop, columns of a scale, trial scales to each side;
    ``limits`` float32 = least and largest scale, and a, b, c of its step d · (a + b · scale) · c. ``nodes`` int32
    [nodes, 3] and ``magnitudes`` float32 [nodes] are the tree of :func:`book.tree`, ``table`` float32 [entries · dim]
    the codebook. ``scales`` [tiles, n / group, 16]; what was found goes to ``entries`` and ``signs`` [tiles, n / dim,
    16], bits as floats, and to ``values`` [tiles, n, 16].
    """
    best = _search(dim, even)

    @primitive
    def value_of(step: Vector, entry: Vector, minus: Vector, k: int, table: Array) -> Vector:
        size = step * look_up(table, multiply_int(entry, dim) + k)
        return where(((minus >> k) & 1) != 0, -size, size)

    @primitive
    def settle(
        y: Pointer,
        first: int,
        at: int,
        stop: int,
        step: Vector,
        entry: Vector,
        minus: Vector,
        table: Array,
        passed_on: Array,
    ) -> None:
        """Pass the errors of an entry on to ``y`` up to column ``stop``; ``y`` counts from column ``first``."""
        for k in range(dim):
            error = y[at + k - first] - value_of(step, entry, minus, k, table)
            for j in range(at + k + 1, stop):
                y[j - first] = y[j - first] - error * passed_on[at + k, j]

    @primitive
    def eight(
        y: Pointer,
        first: int,
        at: int,
        stop: int,
        step: Vector,
        room: Vector,
        nodes: Array,
        magnitudes: Array,
        table: Array,
        passed_on: Array,
        cost: Array,
        chosen: Pointer,
        minus: Pointer,
    ) -> Vector:
        """Columns ``at`` … ``at`` + 8 into ``chosen`` and ``minus``; what they cost, or far more unless that is less
        than ``room``."""
        least, entries, signs = vectors(2), int_vectors(2), int_vectors(2)
        for p in range(2):
            least[p], entries[p], signs[p] = room, splat_int(0), splat_int(0)
        here = offset(y, at - first)
        if dim == _EIGHT:
            best(here, at, step, 0, nodes, magnitudes, passed_on, cost, least, entries, signs)
            chosen[0], minus[0] = entries[0], signs[0]
            settle(y, first, at, stop, step, entries[0], signs[0], table, passed_on)
            return where(least[0] < room, least[0], _LARGEST)
        best(here, at, step, _EITHER if even else 0, nodes, magnitudes, passed_on, cost, least, entries, signs)
        other, others, other_signs = vectors(2), int_vectors(2), int_vectors(2)
        rest = vectors(_EIGHT)
        least_of_both = room
        chosen[0], minus[0], chosen[1], minus[1] = splat_int(0), splat_int(0), splat_int(0), splat_int(0)
        for p in range(2 if even else 1):
            for k in range(_EIGHT):
                rest[k] = here[k]
            settle(rest, at, at, at + _EIGHT, step, entries[p], signs[p], table, passed_on)
            left = least_of_both - least[p]
            for q in range(2):
                other[q], others[q], other_signs[q] = left, splat_int(0), splat_int(0)
            second = offset(rest, dim)
            best(second, at + dim, step, p, nodes, magnitudes, passed_on, cost, other, others, other_signs)
            both = least[p] + other[p]
            better = (least[p] < room) & (other[p] < left) & (both < least_of_both)
            least_of_both = where(better, both, least_of_both)
            chosen[0], minus[0] = where(better, entries[p], chosen[0]), where(better, signs[p], minus[0])
            chosen[1], minus[1] = where(better, others[p], chosen[1]), where(better, other_signs[p], minus[1])
        settle(y, first, at, stop, step, chosen[0], minus[0], table, passed_on)
        settle(y, first, at + dim, stop, step, chosen[1], minus[1], table, passed_on)
        return where(least_of_both < room, least_of_both, _LARGEST)

    def run(
        x: Array,
        passed_on: Array,
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
        y, chosen, minus = vectors(_GROUP), int_vectors(2), int_vectors(2)
        held, held_minus = int_vectors(_EIGHT), int_vectors(_EIGHT)
        per_eight = _EIGHT // dim
        for tile in range(tiles):
            row, made = offset(pointer(x), tile * n * LANES), offset(pointer(errors), tile * (stop - start) * LANES)
            d = load(pointer(supers), 2 * tile * LANES)
            for at in range(start, stop, group):
                place = (tile * (n // group) + at // group) * LANES
                first = load(pointer(scales), place)
                scale, least = first, splat(_LARGEST)
                for k in range(group // dim):
                    held[k], held_minus[k] = splat_int(0), splat_int(0)
                for trial in range(2 * reach + 1):  # the first guess, and then ever farther from it
                    away = (trial + 1) // 2 if trial % 2 else -(trial // 2)
                    other = clamp(first + _f(away), limits[0], limits[1])
                    step = d * (limits[2] + limits[3] * other) * limits[4]
                    for i in range(group):
                        y[i] = load(row, (at + i) * LANES)
                    lost = splat(_ZERO)
                    found, found_minus = int_vectors(_EIGHT), int_vectors(_EIGHT)
                    for k in range(0, group, _EIGHT):
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
                    place = (tile * (n // dim) + at // dim + k) * LANES
                    store(pointer(entries), place, to_float(held[k]))
                    store(pointer(signs), place, to_float(held_minus[k]))
                    for i in range(dim):
                        column = at + dim * k + i
                        value = value_of(step, held[k], held_minus[k], i, table)
                        error = load(row, column * LANES) - value
                        error = where(absolute(error) < _LARGEST, error, _ZERO)  # others cannot make up for it
                        store(pointer(values), (tile * n + column) * LANES, value)
                        store(made, (column - start) * LANES, error)
                        for j in range(column + 1, at + group):
                            store(row, j * LANES, load(row, j * LANES) - error * passed_on[column, j])
                subtract_products(row, offset(made, (at - start) * LANES), group, passed_on, at, at + group, stop)

    return make_kernel(run, __name__, name)


eights_even = _rounding("eights_even", 8, even=True)
eights = _rounding("eights", 8, even=False)
fours_even = _rounding("fours_even", 4, even=True)
fours = _rounding("fours", 4, even=False)
