"""Passing errors on to other columns: the products of matrices that feedback is made of.

Every sum runs over the columns in their order, for each row alone: rows may be shared by threads in any way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import kernel, primitive
from hubquant.quants.cpu.vector.simd import LANES, Pointer, load, offset, pointer, store

Array = np.ndarray[Any, Any]

_WIDTH = 8  # columns whose sums stay in registers


@primitive
def subtract_products(
    x: Pointer, errors: Pointer, count: int, factors: Array, first: int, start: int, stop: int
) -> None:
    """``x``[k] −= Σ errors[i] · factors[first + i, k] for ``start`` ≤ k < ``stop``, over i < ``count``.

    ``x`` and ``errors`` point to floats, 16 rows for each column.
    """
    k = start
    while k + _WIDTH <= stop:
        a, b, c, d = load(x, k * LANES), load(x, (k + 1) * LANES), load(x, (k + 2) * LANES), load(x, (k + 3) * LANES)
        e, f, g, h = (
            load(x, (k + 4) * LANES),
            load(x, (k + 5) * LANES),
            load(x, (k + 6) * LANES),
            load(x, (k + 7) * LANES),
        )
        for i in range(count):
            error, row = load(errors, i * LANES), first + i
            a = a - error * factors[row, k]
            b = b - error * factors[row, k + 1]
            c = c - error * factors[row, k + 2]
            d = d - error * factors[row, k + 3]
            e = e - error * factors[row, k + 4]
            f = f - error * factors[row, k + 5]
            g = g - error * factors[row, k + 6]
            h = h - error * factors[row, k + 7]
        for j, sum in enumerate((a, b, c, d, e, f, g, h)):
            store(x, (k + j) * LANES, sum)
        k += _WIDTH
    while k < stop:
        rest = load(x, k * LANES)
        for i in range(count):
            rest = rest - load(errors, i * LANES) * factors[first + i, k]
        store(x, k * LANES, rest)
        k += 1


@kernel
def pass_on(x: Array, errors: Array, factors: Array, places: Array) -> None:
    """``x`` [tiles, n, 16] −= the errors' products with ``factors`` [rows, n], in columns ``places`` = (start, stop).

    ``errors`` [tiles, count, 16] are those of the columns that rows ``places[2]`` … of ``factors`` stand for.
    """
    tiles, n, count = x.shape[0], x.shape[1], errors.shape[1]
    k = places[0]
    while k < places[1]:  # a panel of factors serves all rows while it is in the nearest cache
        end = min(k + _WIDTH, places[1])
        for tile in range(tiles):
            subtract_products(
                offset(pointer(x), tile * n * LANES),
                offset(pointer(errors), tile * count * LANES),
                count,
                factors,
                places[2],
                k,
                end,
            )
        k = end
