"""Where rounding starts: the order of columns, and the scales that the type's own search finds for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu.rows import Kernels, quantize_rows
from hubquant.quants.feedback.factor import Factor
from hubquant.quants.feedback.stored import Parts, Scales
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat
from hubquant.quants.layout import members

Array = np.ndarray[Any, Any]

SLAB = 256  # columns whose first scales are found together


@dataclass(frozen=True)
class Order:
    """Slabs stay where they are; in each, groups and the columns of each group run by falling importance, which leaves
    the errors that count most to be made up for by more columns. ``columns`` int64 [n] and ``groups`` [n / group].
    """

    columns: Tensor
    groups: Tensor

    @cached_property
    def back(self) -> Array:
        """Where each column stands in this order."""
        return np.argsort(self.columns.numpy())

    @cached_property
    def groups_back(self) -> Array:
        return np.argsort(self.groups.numpy())


def falling_order(importance: Tensor, group: int, together: bool) -> Order:
    """By the importance [n] of columns; where columns are rounded ``together``, they keep their places in the group."""
    n = len(importance)
    by_group = importance.view(-1, group)
    mass, size = by_group.sum(1), SLAB // group
    groups = torch.cat(
        [
            start + mass[start : start + size].argsort(descending=True, stable=True)
            for start in range(0, len(mass), size)
        ]
    )
    places = torch.arange(n).view(-1, group)
    if not together:
        places = places.gather(1, by_group.argsort(dim=1, descending=True, stable=True))
    return Order(places[groups].flatten(), groups)


class Start:
    """The search of mode "best" for slabs of columns, which stand in the ``order`` of the factor."""

    def __init__(
        self, fmt: TypeFormat, kernels: Kernels, read: Callable[[Parts], Scales], factor: Factor, order: Order
    ) -> None:
        self._fmt, self._kernels, self._read, self._order = fmt, kernels, read, order
        self._importance = factor.importance[torch.from_numpy(order.back)]

    def tiles(self, x: Array, rows: int, groups: slice) -> tuple[Array, Array, Array]:
        """For ``x`` [tiles, columns of a slab, 16], the weights of its ``groups`` as they are now: supers [tiles, 2,
        16], and scales and minima [tiles, groups, 16], in the factor's order.
        """
        start = groups.start * (len(self._order.columns) // len(self._order.groups))
        found = self._scales(from_tiles(x, rows), start, start + x.shape[1])
        order = self._order.groups.numpy()[groups] - groups.start
        scales, minima = (to_tiles(each.numpy()[:, order]) for each in (found.scales, found.minima))
        return to_tiles(found.supers.numpy()), scales, minima

    def _scales(self, x: Array, start: int, stop: int) -> Scales:
        """For float32 ``x`` [rows, stop − start] in the factor's order: supers [rows, 2] and scales and minima [rows,
        groups of the slab], in the order of the weights.
        """
        rows = len(x)
        natural = np.ascontiguousarray(x[:, self._order.back[start:stop] - start])
        importance = self._importance[start:stop].contiguous()
        data = quantize_rows(torch.from_numpy(natural), self._fmt, self._kernels, importance, threads=1)
        found = self._read(members(data.view(-1, self._fmt.block_bytes), self._fmt))
        supers = found.supers if (stop - start) == self._fmt.block_size else torch.ones(rows, 2)
        return Scales(supers, found.scales.reshape(rows, -1), found.minima.reshape(rows, -1))
