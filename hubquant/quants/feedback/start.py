"""Where rounding starts: the order of columns, and the scales that the type's own search finds for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu.rows import Kernels, quantize_rows
from hubquant.quants.feedback.factor import SLAB
from hubquant.quants.feedback.stored import Parts, Scales
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat
from hubquant.quants.layout import members

Array = np.ndarray[Any, Any]


def falling_order(importance: Tensor, group: int, together: bool) -> Tensor:
    """The columns int64 [n] in the order in which they are rounded, by their importance [n].

    Slabs stay where they are; in each, groups and the columns of each group run by falling importance, which leaves the
    errors that count most to be made up for by more columns. Columns that are rounded ``together`` keep their places in
    the group.
    """
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
    return places[groups].flatten()


class Start:
    """The search of mode "best" for slabs of columns with this ``importance`` [n]."""

    def __init__(self, fmt: TypeFormat, kernels: Kernels, read: Callable[[Parts], Scales], importance: Tensor) -> None:
        self._fmt, self._kernels, self._read, self._importance = fmt, kernels, read, importance

    def tiles(self, x: Array, rows: int, start: int) -> tuple[Array, Array, Array]:
        """For ``x`` [tiles, columns of a slab, 16], the weights from column ``start`` on as they are now: supers
        [tiles, 2, 16], and scales and minima [tiles, groups, 16]. Supers are 1 where blocks are smaller than slabs.
        """
        columns = x.shape[1]
        importance = self._importance[start : start + columns].contiguous()
        weights = torch.from_numpy(from_tiles(x, rows))
        data = quantize_rows(weights, self._fmt, self._kernels, importance, threads=1)
        found = self._read(members(data.view(-1, self._fmt.block_bytes), self._fmt))
        supers = found.supers if columns == self._fmt.block_size else torch.ones(rows, 2)
        scales, minima = (to_tiles(each.reshape(rows, -1).numpy()) for each in (found.scales, found.minima))
        return to_tiles(supers.numpy()), scales, minima
