"""Feedback from column to column, for types whose weights are rounded one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hubquant.quants.cpu.rows import Kernels
from hubquant.quants.feedback import stored
from hubquant.quants.feedback.factor import Factor, panels
from hubquant.quants.feedback.grids import Grid
from hubquant.quants.feedback.kernels import passing
from hubquant.quants.feedback.sizes import SLAB
from hubquant.quants.feedback.start import Start, falling_order
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat

Array = np.ndarray[Any, Any]


class Scalar:
    """A type with a :class:`Grid`; ``factor`` is that of the moment."""

    def __init__(self, fmt: TypeFormat, grid: Grid, kernels: Kernels, factor: Factor) -> None:
        self._fmt, self._grid, self._factor = fmt, grid, factor
        self._start = Start(fmt, kernels, grid.storage.read, factor.importance)
        order = falling_order(factor.importance, grid.group, together=False)
        self._slabs = [
            (places, panels(torch.from_numpy(inner.passed_on[0])).numpy(), inner.cost[0])
            for places, inner in factor.inside(order)
        ]

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""
        rows, n = values.shape
        grid, factor = self._grid, self._factor
        weights = to_tiles(values)
        x = weights.copy()
        tiles = len(x)
        supers: list[Array] = []
        scales, minima = (np.empty((tiles, n // grid.group, 16), np.float32) for _ in range(2))
        levels, found = np.empty_like(x), np.empty_like(x)
        for start, (places, passed_on, cost) in zip(range(0, n, SLAB), self._slabs, strict=True):
            stop = start + len(places)
            groups = slice(start // grid.group, stop // grid.group)
            over, scales[:, groups], minima[:, groups] = self._start.tiles(x[:, start:stop], rows, start)
            supers.append(over)
            errors = np.empty((tiles, stop - start, 16), np.float32)
            shape = np.array([start, stop, grid.group, grid.reach, grid.low_reach])
            grid.round(x, places, passed_on, cost, shape, grid.limits, over, scales, minima, levels, found, errors)
            passing.pass_on(x, errors, factor.passed_on.numpy(), np.array([stop, n, start]))
        all_supers = np.stack(supers, 1)
        if grid.sweeps:
            grid.descend(
                weights,
                factor.moment.numpy(),
                np.array([grid.group, grid.sweeps, grid.has_minima]),
                grid.limits,
                all_supers,
                scales,
                minima,
                levels,
                found,
                x,
                np.empty((tiles, SLAB, 16), np.float32),
                np.empty((SLAB, 16), np.float32),
            )
        return self._bytes(rows, all_supers, scales, minima, levels), from_tiles(found, rows)

    def _bytes(self, rows: int, supers: Array, scales: Array, minima: Array, levels: Array) -> Array:
        """uint8 [rows, row_bytes]"""
        fmt, group = self._fmt, self._grid.group

        def of_blocks(tiles: Array, each: int) -> torch.Tensor:
            return torch.from_numpy(from_tiles(tiles, rows).reshape(-1, fmt.block_size // each))

        numbers = stored.Scales(
            torch.from_numpy(self._supers(rows, supers)), of_blocks(scales, group), of_blocks(minima, group)
        )
        data: Array = stored.blocks(fmt, self._grid.storage, numbers, of_blocks(levels, 1)).view(rows, -1).numpy()
        return data

    def _supers(self, rows: int, supers: Array) -> Array:
        """[tiles, slabs, 2, 16] -> [blocks, 2]; 1 where blocks are smaller than slabs."""
        if self._fmt.block_size < SLAB:
            return np.ones((rows * self._factor.columns // self._fmt.block_size, 2), np.float32)
        tiles = len(supers)
        return from_tiles(supers.reshape(tiles, -1, 16), rows).reshape(-1, 2)
