"""Feedback from group to group, for types whose weights are rounded together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu.rows import Kernels
from hubquant.quants.feedback.books import Book, tree
from hubquant.quants.feedback.factor import Factor, panels
from hubquant.quants.feedback.kernels import passing
from hubquant.quants.feedback.sizes import SLAB
from hubquant.quants.feedback.start import Start, falling_order
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat
from hubquant.quants.packing import pack

Array = np.ndarray[Any, Any]


class Codebook:
    """A type with a :class:`Book`; ``factor`` is that of the moment."""

    def __init__(self, fmt: TypeFormat, book: Book, kernels: Kernels, factor: Factor) -> None:
        self._fmt, self._book, self._factor = fmt, book, factor
        self._eights = factor.of_neighbours(8)
        self._start = Start(fmt, kernels, book.read, factor.importance)
        order = falling_order(factor.importance, book.group, together=True)
        self._slabs = [
            (places, inner.passed_on[0], panels(torch.from_numpy(inner.passed_on[0])).numpy(), inner.cost[0])
            for places, inner in factor.inside(order)
        ]

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""
        rows, n = values.shape
        book, factor, nodes = self._book, self._factor, tree(self._fmt.name)
        weights = to_tiles(values)
        x = weights.copy()
        tiles = len(x)
        supers: list[Array] = []
        scales = np.empty((tiles, n // book.group, 16), np.float32)
        entries, signs = (np.empty((tiles, n // book.dim, 16), np.float32) for _ in range(2))
        found = np.empty_like(x)
        for start, (places, passed_on, factors, cost) in zip(range(0, n, SLAB), self._slabs, strict=True):
            stop = start + SLAB
            groups = slice(start // book.group, stop // book.group)
            over, scales[:, groups], _ = self._start.tiles(x[:, start:stop], rows, start)
            supers.append(over)
            errors = np.empty((tiles, SLAB, 16), np.float32)
            book.round(
                x,
                places,
                passed_on,
                factors,
                cost,
                np.array([start, stop, book.group, book.reach]),
                book.limits,
                nodes.nodes,
                nodes.magnitudes,
                nodes.table,
                over,
                scales,
                entries,
                signs,
                found,
                errors,
            )
            passing.pass_on(x, errors, factor.passed_on.numpy(), np.array([stop, n, start]))
        all_supers = np.stack(supers, axis=1)
        if book.sweeps:
            book.descend(
                weights,
                factor.moment.numpy(),
                self._eights.inverse,
                self._eights.passed_on,
                self._eights.cost,
                np.array([book.group, book.sweeps]),
                book.limits,
                nodes.nodes,
                nodes.magnitudes,
                nodes.table,
                all_supers,
                scales,
                entries,
                signs,
                found,
                x,
                np.empty((tiles, SLAB, 16), np.float32),
                np.empty((SLAB, 16), np.float32),
            )
        d = from_tiles(np.ascontiguousarray(all_supers[:, :, 0]), rows)
        return self._bytes(rows, d, scales, entries, signs), from_tiles(found, rows)

    def _bytes(self, rows: int, d: Array, scales: Array, entries: Array, signs: Array) -> Array:
        """uint8 [rows, row_bytes]"""
        fmt, book = self._fmt, self._book

        def numbers(tiles: Array, columns: int) -> Tensor:
            return torch.from_numpy(from_tiles(tiles, rows).reshape(-1, fmt.block_size // columns)).to(torch.int64)

        of_blocks = torch.from_numpy(d.reshape(-1))
        members = book.members(
            numbers(entries, book.dim),
            book.signs(numbers(signs, book.dim)),
            numbers(scales, book.group),
            of_blocks,
        )
        data: Array = pack(fmt, {"d": of_blocks, **members}).view(rows, -1).numpy()
        return data
