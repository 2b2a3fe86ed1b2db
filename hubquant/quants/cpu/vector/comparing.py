"""One pass over a matrix and what stands for it: how far apart they are, and how near they could be."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.block import clamp, maximum, nearest_small
from hubquant.quants.cpu.vector.compile import kernel
from hubquant.quants.cpu.vector.simd import LANES, absolute, load, pointer, splat, store, where

Array = np.ndarray[Any, Any]

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def sums_of_rows(
    x: Array, y: Array, low: Array, unit: Array, top: Array, places: Array, bounds: Array, out: Array
) -> None:
    """Of each row of ``x`` and ``y``, float32 [rows, n], what adds up in each of 16 lanes: float32 ``out`` [rows, 7,
    16] = Σ(x − y)², Σ(x − nearest level)², Σx², Σxy, Σ sign(xy), how many x are not 0, max |x|.

    Levels are ``low`` + ``unit`` · code for codes 0 … ``top`` [1], or where there are ``places``, ``low`` + ``unit`` ·
    place: float32 [levels] in rising order, each the nearest one above its bound in ``bounds``, as many. ``low`` and
    ``unit`` are float32 [rows, n / 16], each for 16 neighbours, or [rows, n]. n is a multiple of 16.
    """
    rows, n = x.shape
    shared = low.shape[1] < n
    count = places.shape[0]
    zero, one = splat(_ZERO), splat(_ONE)
    for row in range(rows):
        error, least, power, along, agreeing, filled, peak = zero, zero, zero, zero, zero, zero, zero
        for start in range(0, n, LANES):
            at = row * n + start
            a, b = load(pointer(x), at), load(pointer(y), at)
            if shared:
                size = unit[row, start // LANES]
                base, step, scale = splat(low[row, start // LANES]), splat(size), splat(_ONE / size)
            else:
                base, step = load(pointer(low), at), load(pointer(unit), at)
                scale = _ONE / step
            place = where(step != zero, (a - base) * scale, zero)
            if count == 0:
                level = nearest_small(clamp(place, _ZERO, top[0]))
            else:
                level = splat(places[0])
                for k in range(1, count):
                    level = where(place > bounds[k], places[k], level)
            off, nearest, product = a - b, a - (base + step * level), a * b
            error = error + off * off
            least = least + nearest * nearest
            power = power + a * a
            along = along + product
            agreeing = agreeing + where(product > zero, one, where(product < zero, -one, zero))
            filled = filled + where(a != zero, one, zero)
            peak = maximum(absolute(a), peak)
        for k, sum in enumerate((error, least, power, along, agreeing, filled, peak)):
            store(pointer(out), (row * 7 + k) * LANES, sum)
