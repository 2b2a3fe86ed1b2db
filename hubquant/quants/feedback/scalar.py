"""Feedback from column to column, for types whose weights are rounded one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu.rows import Kernels, quantize_rows
from hubquant.quants.feedback import stored
from hubquant.quants.feedback.factor import Factor
from hubquant.quants.feedback.grids import Grid
from hubquant.quants.feedback.kernels import passing
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat

Array = np.ndarray[Any, Any]

SLAB = 256  # columns whose first scales are found together


@dataclass(frozen=True)
class Order:
    """Slabs stay where they are; in each, groups and the columns of each group run by falling importance, which leaves
    the errors that count most to be made up for by more columns. ``columns`` int64 [n] and ``groups`` [n / group].
    """

    columns: Tensor
    groups: Tensor


def falling_order(importance: Tensor, group: int) -> Order:
    """By the importance [n] of columns."""
    n = len(importance)
    by_group = importance.view(-1, group)
    mass, size = by_group.sum(1), SLAB // group
    groups = torch.cat(
        [
            start + mass[start : start + size].argsort(descending=True, stable=True)
            for start in range(0, len(mass), size)
        ]
    )
    inside = by_group.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(n).view(-1, group).gather(1, inside)
    return Order(places[groups].flatten(), groups)


class Scalar:
    """A type with a :class:`Grid`; ``factor`` is that of the moment in ``order``."""

    def __init__(self, fmt: TypeFormat, grid: Grid, kernels: Kernels, factor: Factor, order: Order) -> None:
        self._fmt, self._grid, self._kernels, self._factor = fmt, grid, kernels, factor
        self._columns, self._groups = order.columns.numpy(), order.groups.numpy()
        self._back, self._groups_back = np.argsort(self._columns), np.argsort(self._groups)
        self._importance = factor.importance[torch.from_numpy(self._back)]

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""
        rows, n = values.shape
        grid, factor = self._grid, self._factor
        x = to_tiles(values[:, self._columns])
        tiles = len(x)
        supers: list[Array] = []
        scales, minima = (np.empty((tiles, n // grid.group, 16), np.float32) for _ in range(2))
        levels, found = np.empty_like(x), np.empty_like(x)
        for start in range(0, n, SLAB):
            stop = min(start + SLAB, n)
            first = self._first_scales(from_tiles(x[:, start:stop], rows), start, stop)
            groups = slice(start // grid.group, stop // grid.group)
            order = self._groups[groups] - groups.start
            scales[:, groups] = to_tiles(first.scales.numpy()[:, order])
            minima[:, groups] = to_tiles(first.minima.numpy()[:, order])
            errors = np.empty((tiles, stop - start, 16), np.float32)
            supers.append(to_tiles(first.supers.numpy()))
            shape = np.array([start, stop, grid.group, grid.reach, grid.low_reach])
            grid.round(
                x, factor.passed_on, factor.cost, shape, grid.limits, supers[-1], scales, minima, levels, found, errors
            )
            passing.pass_on(x, errors, factor.passed_on, np.array([stop, n, start]))
        all_supers = np.stack(supers, 1)
        if grid.sweeps:
            grid.descend(
                to_tiles(values[:, self._columns]),
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
        return self._bytes(rows, all_supers, scales, minima, levels), from_tiles(found, rows)[:, self._back]

    def _first_scales(self, x: Array, start: int, stop: int) -> stored.Scales:
        """What the type's own search finds for the columns of a slab: [rows, groups of the slab] each."""
        rows = len(x)
        natural = np.ascontiguousarray(x[:, self._back[start:stop] - start])
        importance = self._importance[start:stop].contiguous()
        data = quantize_rows(torch.from_numpy(natural), self._fmt, self._kernels, importance, threads=1)
        found = stored.read_scales(data.view(-1, self._fmt.block_bytes), self._fmt, self._grid.storage)
        supers = found.supers if (stop - start) == self._fmt.block_size else torch.ones(rows, 2)
        return stored.Scales(supers, found.scales.reshape(rows, -1), found.minima.reshape(rows, -1))

    def _bytes(self, rows: int, supers: Array, scales: Array, minima: Array, levels: Array) -> Array:
        """uint8 [rows, row_bytes] of what stands in the order of the columns."""
        fmt, group = self._fmt, self._grid.group
        per_block = fmt.block_size // group
        in_order = stored.Scales(
            torch.from_numpy(self._supers(rows, supers)),
            *(
                torch.from_numpy(from_tiles(each, rows)[:, self._groups_back].reshape(-1, per_block))
                for each in (scales, minima)
            ),
        )
        codes = torch.from_numpy(from_tiles(levels, rows)[:, self._back].reshape(-1, fmt.block_size))
        data: Array = stored.blocks(fmt, self._grid.storage, in_order, codes).view(rows, -1).numpy()
        return data

    def _supers(self, rows: int, supers: Array) -> Array:
        """[tiles, slabs, 2, 16] -> [blocks, 2]; 1 where blocks are smaller than slabs."""
        if self._fmt.block_size < SLAB:
            return np.ones((rows * len(self._columns) // self._fmt.block_size, 2), np.float32)
        tiles = len(supers)
        return from_tiles(supers.reshape(tiles, -1, 16), rows).reshape(-1, 2)
