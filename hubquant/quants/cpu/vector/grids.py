"""The codebooks of the IQ types, prepared for the search: where a rounded point goes when it is not in the codebook.

A point has ``dim`` levels, level ``i`` at bits ``bits · i`` of its key; level ``l`` stands for 2·l + 1 (IQ1: l − 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hubquant.quants.formats import LANES

Array = np.ndarray[Any, Any]

_COUNT_BITS = 5


@dataclass(frozen=True)
class Codebook:
    """``lookup`` int32 [keys]: the index of the codebook entry with that key or, negative, the list of its neighbours:
    ``~(first << 5 | count)`` means vectors ``first … first + count - 1`` of ``lists`` int32 [vectors, 16], which hold
    keys of codebook entries in the order in which they are tried; the last vector is filled with its first entry's key.
    """

    lookup: Array
    lists: Array
    keys: Array


# dimensions, levels, and how many different distances the list of neighbours reaches (``nwant`` in ggml-quants.c)
_SHAPES = {
    "IQ2_XXS": (8, 3, 2),
    "IQ2_XS": (8, 3, 2),
    "IQ2_S": (8, 3, 1),
    "IQ3_XXS": (4, 8, 2),
    "IQ3_S": (4, 8, 3),
    "IQ1_S": (8, 3, 3),
}


def search_tables(name: str) -> tuple[Array, Array]:
    """``lookup`` and ``lists`` of the codebook of a type."""
    book = codebook(name)
    return book.lookup, book.lists


@cache
def codebook(name: str) -> Codebook:
    """The codebook of a type; IQ1_M uses that of IQ1_S."""
    dim, levels, reach = _SHAPES[name]
    entries = entry_levels(name, dim)
    bits = (levels - 1).bit_length()
    powers = 1 << bits * np.arange(dim)
    keys = (entries @ powers).astype(np.int32)
    lookup = np.full(1 << bits * dim, -1, np.int32)
    rows, columns = _neighbours(entries, levels, reach)
    point_keys = _points(dim, levels) @ powers

    counts = np.bincount(rows, minlength=len(point_keys))
    vectors = -(-counts // LANES)
    firsts = np.cumsum(vectors) - vectors
    starts = np.cumsum(counts) - counts
    lookup[point_keys] = ~(firsts << _COUNT_BITS | vectors)
    lookup[keys] = np.arange(len(keys))

    lists = np.repeat(keys[columns[starts]], vectors * LANES)
    lists[firsts[rows] * LANES + np.arange(len(rows)) - starts[rows]] = keys[columns]
    return Codebook(lookup, lists.reshape(-1, LANES), keys)


@cache
def index_table(name: str) -> tuple[Array]:
    """int32 [keys]: the index of the codebook entry with each key."""
    dim, levels, _ = _SHAPES[name]
    entries = entry_levels(name, dim)
    bits = (levels - 1).bit_length()
    index = np.zeros(1 << bits * dim, np.int32)
    index[entries @ (1 << bits * np.arange(dim))] = np.arange(len(entries))
    return (index,)


def entry_levels(name: str, dim: int) -> Array:
    """The levels of each entry, int [entries, dim], in the order of their indices."""
    import gguf

    kind = gguf.quants._type_traits[gguf.GGMLQuantizationType[name]]
    kind.init_grid()
    values: Array = np.asarray(kind.grid).reshape(-1, dim)
    return np.searchsorted(np.asarray(kind.grid_map, values.dtype), values)


def _points(dim: int, levels: int) -> Array:
    """All points, int [levels ** dim, dim], the last level running fastest."""
    return np.stack(np.meshgrid(*[np.arange(levels)] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


def _neighbours(entries: Array, levels: int, reach: int) -> tuple[Array, Array]:
    """Pairs (point, entry) within the ``reach`` smallest different distances of each point, by point,
    distance, entry.
    """
    halves = _points(entries.shape[1] // 2, levels)[:, None]
    first, second = (np.square(halves - half).sum(axis=2, dtype=np.uint8) for half in np.hsplit(entries, 2))
    distance = (first[:, None] + second).reshape(-1, len(entries))
    limit = distance.min(axis=1, keepdims=True)
    for _ in range(reach - 1):
        limit = np.where(distance > limit, distance, 255).min(axis=1, keepdims=True)
    within = np.flatnonzero(distance <= limit)
    rows, columns = np.divmod(within, len(entries))
    order = np.sort(rows << 32 | distance.ravel()[within].astype(np.int64) << 16 | columns)
    return order >> 32, order & 0xFFFF
