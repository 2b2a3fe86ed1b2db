"""The best entries of a codebook for columns that are rounded together.

Within a group the error of each column is passed on to the next before its magnitude is chosen, so Σ cost · error² of
an entry is its error under the whole conditional moment of the group. The entries form a tree, a level for each column;
what no lane can gain from is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hubquant.quants.cpu.vector.block import maximum
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.reading import look_up
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    absolute,
    any_lane,
    int_vectors,
    multiply_int,
    offset,
    splat,
    splat_int,
    vectors,
    where,
)

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, LARGEST = _f(0), _f(1), _f(3e38)
EIGHT = 8
_EITHER = 2  # parity of signs


class Entries(NamedTuple):
    """Primitives for codebooks of four or eight columns: what an entry with signs stands for, and the best ones for
    eight columns.
    """

    value_of: Callable[..., Vector]
    eight: Callable[..., Vector]


def _search(dim: int, even: bool) -> Any:
    """``best(y, at, step, parity, nodes, magnitudes, passed_on, cost, least, entries, signs)``, a primitive.

    ``y`` [dim] are the weights of columns ``at`` …; ``least`` [2] what the best entry found before costs, with an even
    and with an odd number of negative signs, replaced with its ``entries`` and ``signs`` [2] where there is a better
    one. With ``parity`` 0 or 1 only that one is looked for. Where signs are free (not ``even``), all count as even.
    """

    room = EIGHT * dim

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
            target = state[EIGHT * depth + depth]
            below = where(flip == _f(depth), -target, target) < _ZERO
            value = step * magnitudes[i]
            error = target - where(below, -value, value)
            lost = total[depth] + cost[at + depth] * (error * error)
            bound = maximum(least[0], least[1]) if parity == _EITHER else least[parity]
            if any_lane(lost < bound):
                minus = negative[depth] | where(below, splat_int(1 << depth), 0)
                if depth + 1 == dim:
                    odd = (minus ^ minus >> 4) if dim == EIGHT else minus
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
                        passed = state[EIGHT * depth + k] - error * passed_on[at + depth, at + k]
                        state[EIGHT * (depth + 1) + k] = passed
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
            second, smallest, next_one = flip, splat(LARGEST), splat(LARGEST)
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


def entries_of(dim: int, even: bool) -> Entries:
    """For entries of ``dim`` columns; ``even``: the number of negative signs of each eight is."""
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
        if dim == EIGHT:
            best(here, at, step, 0, nodes, magnitudes, passed_on, cost, least, entries, signs)
            chosen[0], minus[0] = entries[0], signs[0]
            settle(y, first, at, stop, step, entries[0], signs[0], table, passed_on)
            return where(least[0] < room, least[0], LARGEST)
        best(here, at, step, _EITHER if even else 0, nodes, magnitudes, passed_on, cost, least, entries, signs)
        other, others, other_signs = vectors(2), int_vectors(2), int_vectors(2)
        rest = vectors(EIGHT)
        least_of_both = room
        chosen[0], minus[0], chosen[1], minus[1] = splat_int(0), splat_int(0), splat_int(0), splat_int(0)
        for p in range(2 if even else 1):
            for k in range(EIGHT):
                rest[k] = here[k]
            settle(rest, at, at, at + EIGHT, step, entries[p], signs[p], table, passed_on)
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
        return where(least_of_both < room, least_of_both, LARGEST)

    return Entries(value_of, eight)


EIGHTS_EVEN, EIGHTS = entries_of(8, even=True), entries_of(8, even=False)
FOURS_EVEN, FOURS = entries_of(4, even=True), entries_of(4, even=False)
