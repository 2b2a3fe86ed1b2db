"""Sorting the weights of 16 blocks, each lane its own block."""

from __future__ import annotations

from hubquant.quants.cpu.vector.compile import inlined, primitive
from hubquant.quants.cpu.vector.simd import Pointer, splat_int, where


@inlined
def _order(a: int, b: int, x: Pointer, w: Pointer, index: Pointer) -> None:
    """Put elements ``a`` and ``b`` into order, by value and then by index."""
    swap = (x[a] > x[b]) | ((x[a] == x[b]) & (index[a] > index[b]))
    x[a], x[b] = where(swap, x[b], x[a]), where(swap, x[a], x[b])
    w[a], w[b] = where(swap, w[b], w[a]), where(swap, w[a], w[b])
    index[a], index[b] = where(swap, index[b], index[a]), where(swap, index[a], index[b])


@primitive
def _sort(n: int, x: Pointer, w: Pointer, index: Pointer) -> None:
    """Batcher's odd-even merge sort of ``n`` = 2ᵏ elements, stable because indices decide ties."""
    run = 1
    while run < n:
        gap = run
        while gap >= 1:
            for first in range(gap % run, n - gap, 2 * gap):
                for a in range(first, min(first + gap, n - gap)):
                    if a // (2 * run) == (a + gap) // (2 * run):
                        _order(a, a + gap, x, w, index)
            gap //= 2
        run *= 2


@primitive
def sorted_copy(n: int, x: Pointer, w: Pointer, sorted_x: Pointer, sorted_w: Pointer, index: Pointer) -> None:
    """The ``n`` values in rising order, their weights, and where each was."""
    for i in range(n):
        sorted_x[i] = x[i]
        sorted_w[i] = w[i]
        index[i] = splat_int(i)
    _sort(n, sorted_x, sorted_w, index)
