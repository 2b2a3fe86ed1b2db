"""The types whose weights are rounded together, to the entries of a codebook with signs of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu.decode.tables import grid
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.feedback.kernels import book_descent, books
from hubquant.quants.feedback.stored import Parts, Scales, signed
from hubquant.quants.packing import joined
from hubquant.quants.tensor import codebook_types

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Book:
    """``dim`` columns share an entry, ``group`` columns a scale of 4 bits, whose step is d · (a + b · scale) · c for
    ``step`` = (a, b, c). ``kind`` names the kernels; ``read`` and ``members`` are the scales of blocks, and the members
    made of entries [blocks, n / dim], signs [blocks, n / 8], scales [blocks, n / group] and d.

    ``reach`` scales to each side of the first guess are tried, and ``sweeps`` of coordinate descent follow.
    """

    dim: int
    group: int
    step: tuple[float, float, float]
    kind: str
    read: Callable[[Parts], Scales]
    members: Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]
    reach: int = 2
    sweeps: int = 2

    @property
    def descend(self) -> Kernel:
        kernel: Kernel = getattr(book_descent, self.kind)
        return kernel

    @property
    def round(self) -> Kernel:
        kernel: Kernel = getattr(books, self.kind)
        return kernel

    @property
    def limits(self) -> Array:
        """As the kernels take them."""
        return np.array([0, 15, *self.step], np.float32)

    def signs(self, found: Tensor) -> Tensor:
        """Of each eight weights, from int64 [blocks, n / dim]: the last is not stored where it follows from seven."""
        together = joined(found.reshape(len(found), -1, 8 // self.dim), self.dim)
        return together & 127 if self.kind.endswith("even") else together


@dataclass(frozen=True)
class Tree:
    """The entries of a codebook, a level for each column: ``nodes`` int32 [nodes, 3] = depth, the next node that is
    not below this one, the entry if it is the last column's; and the ``magnitudes`` float32 [nodes] of these columns.
    A node stands before those below it. ``table`` float32 [entries · dim] holds the entries one after the other.
    """

    nodes: Array
    magnitudes: Array
    table: Array


@cache
def tree(name: str) -> Tree:
    """That of a type's codebook."""
    (entries,) = grid(name)
    dim = entries.shape[1]
    nodes: list[list[int]] = []
    magnitudes: list[int] = []

    def add(depth: int, members: Array) -> None:
        for level in np.unique(entries[members, depth]):
            below = members[entries[members, depth] == level]
            node = [depth, 0, int(below[0])]
            nodes.append(node)
            magnitudes.append(int(level))
            if depth + 1 < dim:
                add(depth + 1, below)
            node[1] = len(nodes)

    add(0, np.arange(len(entries)))
    return Tree(
        np.array(nodes, np.int32), np.array(magnitudes, np.float32), entries.astype(np.float32).reshape(-1).copy()
    )


def _nibbles(p: Parts) -> Scales:
    return signed(p, torch.stack([p["scales"] & 15, p["scales"] >> 4], dim=2).flatten(1))


def _read_iq2_xxs(p: Parts) -> Scales:
    """The top four bits of every fourth word of 16."""
    return signed(p, (p["qs"][:, 3::4].int() >> 12) & 15)


def _read_iq3_xxs(p: Parts) -> Scales:
    """The top four bits of words of 32, behind the entries."""
    return signed(p, p["qs"][:, 67::4] >> 4)


_FINE, _HALF_FINE = (0.5, 1, 0.25), (0.5, 1, 0.5)

BOOKS: Mapping[str, Book] = MappingProxyType(
    {
        "IQ2_XXS": Book(8, 32, _FINE, "eights_even", _read_iq2_xxs, codebook_types.iq2_xxs_members),
        "IQ2_XS": Book(8, 16, _FINE, "eights_even", _nibbles, codebook_types.iq2_xs_members),
        "IQ2_S": Book(8, 16, _FINE, "eights", _nibbles, codebook_types.iq2_s_members),
        "IQ3_XXS": Book(4, 32, _HALF_FINE, "fours_even", _read_iq3_xxs, codebook_types.iq3_xxs_members),
        "IQ3_S": Book(4, 32, (1, 2, 1), "fours", _nibbles, codebook_types.iq3_s_members),
    }
)
