"""The best entry of IQ1's codebook for groups of 8 weights, 16 blocks at a time (tables: :mod:`ternary_grid`).

A weight stands ``t`` = x / scale − shift from 0; its level is 0 for |t| < ½, else ±1, and the second best level moves
it into or out of 0 at a cost of w·|2·|t| − 1| · scale².
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.best.ternary_grid import LISTED
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    int_vectors,
    lanes,
    splat,
    splat_int,
    vectors,
    where,
)

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _TWO = _f(0), _f(1), _f(2)
_INFINITY = _f(np.inf)


@primitive
def nearest_entry(x: Pointer, w: Pointer, inverse: Vector, shift: Vector, flips: Array) -> Vector:
    """The state of the entry with the least Σ w·(scale·(level + shift) − x)² over 8 weights."""
    cost, states, listed = vectors(8), int_vectors(1), int_vectors(3)
    state = splat_int(0)
    for i in range(8):
        t = x[i] * inverse - shift
        beyond = _TWO * absolute(t) - _ONE
        state = state | where(t < _ZERO, splat_int(1 << i), 0) | where(beyond >= _ZERO, splat_int(256 << i), 0)
        cost[i] = w[i] * absolute(beyond)
    states[0] = state
    lane_state, lane_listed = lanes(states), lanes(listed)
    for lane in range(LANES):
        lane_listed[lane] = flips[lane_state[lane], 0]
        lane_listed[LANES + lane] = flips[lane_state[lane], 1]
        lane_listed[2 * LANES + lane] = flips[lane_state[lane], 2]
    best = splat(_INFINITY)
    chosen = splat_int(0)
    for k in range(LISTED):
        flip = (listed[k // 4] >> (8 * (k % 4))) & 255
        total = splat(_ZERO)
        for i in range(8):
            total = total + where((flip & (1 << i)) == 0, _ZERO, cost[i])
        better = total < best
        best = where(better, total, best)
        chosen = where(better, flip, chosen)
    return state ^ chosen << 8


@primitive
def level_value(state: Vector, i: int, shift: Vector) -> Vector:
    """What level ``i`` of a state stands for: −1, 0 or 1, and the shift."""
    return where((state & (256 << i)) == 0, _ZERO, where((state & (1 << i)) == 0, splat(_ONE), -_ONE)) + shift


@primitive
def entry_sums(x: Pointer, w: Pointer, state: Vector, shift: Vector) -> tuple[Vector, Vector]:
    """Σ w·v·x and Σ w·v² of 8 weights for v = level + shift."""
    vx = splat(_ZERO)
    vv = splat(_ZERO)
    for i in range(8):
        v = level_value(state, i, shift)
        weighted = w[i] * v
        vx = vx + weighted * x[i]
        vv = vv + weighted * v
    return vx, vv


@primitive
def entry_indices(state: Vector, index: Array) -> Vector:
    """The indices of the entries that have these states."""
    found = int_vectors(1)
    found[0] = state
    lane = lanes(found)
    for k in range(LANES):
        lane[k] = index[lane[k]]
    return found[0]
