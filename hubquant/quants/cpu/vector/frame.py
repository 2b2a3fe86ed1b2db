"""The frame of every kernel: load 16 blocks, weigh their squared errors, search, store.

A type brings its search, ``search(x, w, block, *tables)``, a primitive that turns ``size`` weights of 16 blocks (``x``,
free to be overwritten) and the weights of their squared errors (``w``) into the bytes of the blocks (``block``, from
``byte_vectors``), and a weighting, ``weigh(size, w, x, given, tile)``. ``given`` is what is known besides the weights:

* ``()`` without importance;
* ``(importance,)`` float32 [tiles, size, 16], which repeats every ``tiles`` · 16 blocks;
* ``(power, importance)`` for types that weigh by the mean square of the whole row, float32 [blocks].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from hubquant.quants.cpu.vector.block import load_tile, store_tile
from hubquant.quants.cpu.vector.compile import Signature, make_kernel, primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    absolute,
    byte_vectors,
    load,
    offset,
    pointer,
    splat,
    sqrt,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import error_weights, importance_of, square_weights, sum_squares, total
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]
Tables = tuple[Array, ...]


def framed(
    name: str,
    type: str,
    search: Callable[..., None],
    weigh: Callable[..., None],
    constant: bool = False,
) -> Kernel:
    """``kernel(values, *given, out, *tables)`` for ``values`` float32 [blocks, size] and ``out`` uint8 [blocks,
    block_bytes]; the number of blocks is a multiple of 16, and ``tables`` are the arrays that the search looks up.

    ``name`` is that of the variable that holds the kernel, in the module of its search. ``constant``: all blocks have
    the same weights, which the search leaves as they are.
    """
    size, nbytes = TYPES[type].block_size, TYPES[type].block_bytes

    def run(values: Array, given: Tables, out: Array, tables: Tables) -> None:
        x, w, block = vectors(size), vectors(size), byte_vectors(nbytes)
        if constant:
            weigh(size, w, x, given, 0)
        for tile in range(values.shape[0] // LANES):
            load_tile(x, values, tile)
            if not constant:
                weigh(size, w, x, given, tile)
            search(x, w, block, *tables)
            store_tile(out, tile, block)

    def grouped(arrays: Signature) -> Signature:
        out = next(i for i, array in enumerate(arrays) if array.dtype == types.uint8)
        values, given, rest = arrays[0], arrays[1:out], arrays[out + 1 :]
        return values, types.Tuple(given), arrays[out], types.Tuple(rest)

    return make_kernel(run, search.__module__, name, grouped)


# ---- weightings -----------------------------------------------------------------------------------------------------


@primitive
def unweighted(_size: int, _w: Pointer, _x: Pointer, _given: Tables, _tile: int) -> None:
    """For searches that use no weights: ``w`` is left unset."""


@primitive
def by_one(size: int, w: Pointer, _x: Pointer, _given: Tables, _tile: int) -> None:
    """``w`` = 1"""
    for i in range(size):
        w[i] = splat(np.float32(1))


@primitive
def by_square(size: int, w: Pointer, x: Pointer, _given: Tables, _tile: int) -> None:
    """``w`` = x²"""
    square_weights(size, w, x)


@primitive
def by_magnitude(size: int, w: Pointer, x: Pointer, _given: Tables, _tile: int) -> None:
    """``w`` = |x|"""
    for i in range(size):
        w[i] = absolute(x[i])


@primitive
def by_spread(size: int, w: Pointer, x: Pointer, _given: Tables, _tile: int) -> None:
    """``w`` = √(mean square of 32 neighbours) + |x|"""
    for first in range(0, size, 32):
        spread = sqrt(sum_squares(32, offset(x, first)) / np.float32(32))
        for i in range(first, first + 32):
            w[i] = spread + absolute(x[i])


@primitive
def by_importance(size: int, w: Pointer, _x: Pointer, given: tuple[Array], tile: int) -> None:
    """``w`` = importance"""
    for i in range(size):
        w[i] = importance_of(given[0], tile, i)


@primitive
def by_importance_if_any(size: int, w: Pointer, _x: Pointer, given: tuple[Array], tile: int) -> None:
    """``w`` = importance, 1 in blocks where nothing is important"""
    for i in range(size):
        w[i] = importance_of(given[0], tile, i)
    dead = total(size, w) == np.float32(0)
    for i in range(size):
        w[i] = where(dead, np.float32(1), w[i])


@primitive
def by_block(size: int, w: Pointer, x: Pointer, given: tuple[Array], tile: int) -> None:
    """``w`` = importance · √(mean square of the block + x²)"""
    error_weights(w, x, given[0], tile, sum_squares(size, x) / np.float32(size))


@primitive
def by_block_twice(size: int, w: Pointer, x: Pointer, given: tuple[Array], tile: int) -> None:
    """``w`` = importance · √(2 · mean square of the block + x²)"""
    error_weights(w, x, given[0], tile, np.float32(2) * sum_squares(size, x) / np.float32(size))


@primitive
def by_block_doubled(size: int, w: Pointer, x: Pointer, given: tuple[Array], tile: int) -> None:
    """As :func:`by_block_twice`; the two differ where twice the sum of squares overflows."""
    error_weights(w, x, given[0], tile, sum_squares(size, x) * np.float32(2 / size))


@primitive
def by_block_evenly(size: int, w: Pointer, x: Pointer, _given: Tables, _tile: int) -> None:
    """As :func:`by_block_twice`, of equal importance. llama.cpp takes x² where it has none; with a search that truly
    minimizes it, that sacrifices all but the largest weights.
    """
    mean_square = np.float32(2) * sum_squares(size, x) / np.float32(size)
    for i in range(size):
        w[i] = sqrt(mean_square + x[i] * x[i])


@primitive
def by_row(_size: int, w: Pointer, x: Pointer, given: tuple[Array, Array], tile: int) -> None:
    """``w`` = importance · √(mean square of the row + x²)"""
    error_weights(w, x, given[1], tile, load(pointer(given[0]), tile * LANES))
