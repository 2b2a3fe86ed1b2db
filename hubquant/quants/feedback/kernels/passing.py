"""Passing errors on to other columns: the products of matrices that feedback is made of.

Every sum runs over the columns in their order, for each row alone: rows may be shared by threads in any way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import kernel, primitive
from hubquant.quants.cpu.vector.simd import LANES, Pointer, load, offset, pointer, store

Array = np.ndarray[Any, Any]

PANEL = 4  # columns whose sums stay in registers, twice as many where one holds half of the rows
_BLOCK = 256  # errors that stay in the nearest cache


@primitive
def subtract_products(
    x: Pointer, errors: Pointer, count: int, factors: Pointer, rows: int, start: int, stop: int
) -> None:
    """``x``[k] −= Σ errors[i] · factors[i, k] for ``start`` ≤ k < ``stop``, multiples of ``PANEL``, over i < ``count``.

    ``x`` and ``errors`` point to floats, 16 rows for each column, ``factors`` to one in panels of so many ``rows``.
    """
    for k in range(start, stop, PANEL):
        column = offset(x, k * LANES)
        a, b, c, d = load(column, 0), load(column, LANES), load(column, 2 * LANES), load(column, 3 * LANES)
        panel = offset(factors, k * rows)
        for i in range(count):
            error = load(errors, i * LANES)
            a = a - error * panel[PANEL * i]
            b = b - error * panel[PANEL * i + 1]
            c = c - error * panel[PANEL * i + 2]
            d = d - error * panel[PANEL * i + 3]
        store(column, 0, a)
        store(column, LANES, b)
        store(column, 2 * LANES, c)
        store(column, 3 * LANES, d)


@primitive
def subtract_all(
    x: Pointer, x_tile: int, errors: Pointer, errors_tile: int, count: int, tiles: int, factors: Pointer, rows: int,
    start: int, stop: int,
) -> None:  # fmt: skip
    """:func:`subtract_products` for ``tiles``, which lie so many floats apart: a panel serves all of them while it is
    in the nearest cache.
    """
    for first in range(0, count, _BLOCK):
        here = min(_BLOCK, count - first)
        for k in range(start, stop, PANEL):
            for tile in range(tiles):
                subtract_products(
                    offset(x, tile * x_tile),
                    offset(errors, tile * errors_tile + first * LANES),
                    here,
                    offset(factors, first * PANEL),
                    rows,
                    k,
                    k + PANEL,
                )


@kernel
def pass_on(x: Array, errors: Array, factors: Array, places: Array) -> None:
    """``x`` [tiles, n, 16] −= the errors' products with ``factors``, in columns ``places`` = (start, stop).

    ``errors`` [tiles, count, 16] are those of the columns that rows ``places[2]`` … of ``factors`` stand for; these are
    panels [n / 4, rows, 4].
    """
    tiles, n, count, rows = x.shape[0], x.shape[1], errors.shape[1], factors.shape[1]
    subtract_all(
        pointer(x),
        n * LANES,
        pointer(errors),
        count * LANES,
        count,
        tiles,
        offset(pointer(factors), places[2] * PANEL),
        rows,
        places[0],
        places[1],
    )
