"""Feedback from column to column, for types whose weights are rounded one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hubquant.quants.cpu.rows import Kernels
from hubquant.quants.feedback import stored
from hubquant.quants.feedback.factor import Factor
from hubquant.quants.feedback.grids import Grid
from hubquant.quants.feedback.kernels import passing
from hubquant.quants.feedback.start import SLAB, Order, Start
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat

Array = np.ndarray[Any, Any]


class Scalar:
    """A type with a :class:`Grid`; ``factor`` is that of the moment in ``order``."""

    def __init__(self, fmt: TypeFormat, grid: Grid, kernels: Kernels, factor: Factor, order: Order) -> None:
        self._fmt, self._grid, self._factor, self._order = fmt, grid, factor, order
        self._start = Start(fmt, kernels, grid.storage.read, factor, order)

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""
        rows, n = values.shape
        grid, factor = self._grid, self._factor
        weights = to_tiles(values[:, self._order.columns.numpy()])
        x = weights.copy()
        tiles = len(x)
        supers: list[Array] = []
        scales, minima = (np.empty((tiles, n // grid.group, 16), np.float32) for _ in range(2))
        levels, found = np.empty_like(x), np.empty_like(x)
        for start in range(0, n, SLAB):
            stop = min(start + SLAB, n)
            groups = slice(start // grid.group, stop // grid.group)
            over, scales[:, groups], minima[:, groups] = self._start.tiles(x[:, start:stop], rows, groups)
            supers.append(over)
            errors = np.empty((tiles, stop - start, 16), np.float32)
            shape = np.array([start, stop, grid.group, grid.reach, grid.low_reach])
            grid.round(
                x, factor.passed_on, factor.cost, shape, grid.limits, over, scales, minima, levels, found, errors
            )
            passing.pass_on(x, errors, factor.passed_on, np.array([stop, n, start]))
        all_supers = np.stack(supers, 1)
        if grid.sweeps:
            grid.descend(
                weights,
                factor.moment,
                np.array([grid.group, grid.sweeps, grid.has_minima]),
                grid.limits,
                all_supers,
                scales,
                minima,
                levels,
                found,
                np.empty((n, 16), np.float32),
                np.empty((n, 16), np.float32),
            )
        return self._bytes(rows, all_supers, scales, minima, levels), from_tiles(found, rows)[:, self._order.back]

    def _bytes(self, rows: int, supers: Array, scales: Array, minima: Array, levels: Array) -> Array:
        """uint8 [rows, row_bytes] of what stands in the order of the columns."""
        fmt, group = self._fmt, self._grid.group
        per_block = fmt.block_size // group
        in_order = stored.Scales(
            torch.from_numpy(self._supers(rows, supers)),
            *(
                torch.from_numpy(from_tiles(each, rows)[:, self._order.groups_back].reshape(-1, per_block))
                for each in (scales, minima)
            ),
        )
        codes = torch.from_numpy(from_tiles(levels, rows)[:, self._order.back].reshape(-1, fmt.block_size))
        data: Array = stored.blocks(fmt, self._grid.storage, in_order, codes).view(rows, -1).numpy()
        return data

    def _supers(self, rows: int, supers: Array) -> Array:
        """[tiles, slabs, 2, 16] -> [blocks, 2]; 1 where blocks are smaller than slabs."""
        if self._fmt.block_size < SLAB:
            return np.ones((rows * self._factor.columns // self._fmt.block_size, 2), np.float32)
        tiles = len(supers)
        return from_tiles(supers.reshape(tiles, -1, 16), rows).reshape(-1, 2)
