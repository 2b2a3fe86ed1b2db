"""Feedback from column to column on other devices than the CPU, for types whose weights are rounded one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.devices import in_full_float32
from hubquant.quants.feedback import stored
from hubquant.quants.feedback.factor import Factor, turned
from hubquant.quants.feedback.grids import Grid
from hubquant.quants.feedback.sizes import SLAB
from hubquant.quants.feedback.start import falling_order
from hubquant.quants.feedback.tensor.columns import Columns, Numbers, Slab
from hubquant.quants.feedback.tensor.descent import descend
from hubquant.quants.formats import TypeFormat
from hubquant.quants.layout import members
from hubquant.quants.tensor import TensorSearch, checked

ROWS = 8192
"""That are rounded at a time, and fewer of more than 4096 columns."""
_WEIGHTS = 1 << 25  # at a time: some of them ten times, in all one or two gigabytes


class TensorScalar:
    """A type with a :class:`Grid` on a ``device``; ``search`` is that of its mode "best", ``factor`` that of the
    moment."""

    def __init__(self, fmt: TypeFormat, grid: Grid, search: TensorSearch, factor: Factor, device: torch.device) -> None:
        self._fmt, self._grid, self._search = fmt, grid, search
        self._columns = Columns(grid, device)
        self._moment, self._passed_on = factor.moment.to(device), factor.passed_on.to(device)
        self._importance = factor.importance.to(device)
        order = falling_order(factor.importance.cpu(), grid.group, together=False)
        self._slabs = [
            Slab(*(torch.from_numpy(each).to(device) for each in (places, inner.passed_on[0], inner.cost[0])))
            for places, inner in factor.inside(order)
        ]

    def quantize(self, x: Tensor) -> Tensor:
        """float ``x`` [rows, n] -> uint8 [rows, row_bytes] on its device.

        Rows go in parts of so many, filled up with zeros: what becomes of one does not depend on the others. ValueError
        for NaN or infinity, naming the row.
        """
        rows, n = x.shape
        data = torch.empty(rows, self._fmt.row_bytes(n), dtype=torch.uint8, device=x.device)
        width = max(1, min(ROWS, _WEIGHTS // n))
        with torch.no_grad(), in_full_float32():
            for start in range(0, rows, width):
                part = checked(x[start : start + width], start)
                filled = torch.nn.functional.pad(part, (0, 0, 0, width - len(part)))
                data[start : start + width] = self.round(filled)[0][: len(part)]
        return data

    def round(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float32 [rows, n] -> their bytes uint8 [rows, row_bytes] and what these stand for, float32 [rows, n]: all
        rows at once, whose numbers are finite. Nothing waits for the device."""
        rows, n = x.shape
        weights = x.T.contiguous()
        left = weights.clone()
        levels, values = torch.empty_like(left), torch.empty_like(left)
        numbers = []
        for start, slab in zip(range(0, n, SLAB), self._slabs, strict=True):
            here, rest = slice(start, start + len(slab.places)), slice(start + len(slab.places), n)
            levels[here], values[here], found = self._columns.round(left[here], slab, self._first(left, here))
            numbers.append(found)
            left[rest].addmm_(turned(self._passed_on, here, rest), left[here] - values[here], alpha=-1)
        del left
        descend(self._columns, weights, self._moment, numbers, levels, values)
        return self._bytes(rows, numbers, levels), values.T

    def _first(self, left: Tensor, here: slice) -> Numbers:
        """What the type's own search finds for a slab."""
        weights = left[here].T.contiguous()
        data = self._search.blocks(weights, self._importance[here], self._fmt)
        found = self._grid.storage.read(members(data.view(-1, self._fmt.block_bytes), self._fmt))
        supers = found.supers if weights.shape[1] == self._fmt.block_size else found.supers.new_ones(len(weights), 2)
        scales, minima = (each.reshape(len(weights), -1).T.contiguous() for each in (found.scales, found.minima))
        return Numbers(supers.T.contiguous(), scales, minima)

    def _bytes(self, rows: int, numbers: list[Numbers], levels: Tensor) -> Tensor:
        """uint8 [rows, row_bytes]"""

        fmt, grid = self._fmt, self._grid

        def of_blocks(each: Tensor, columns: int) -> Tensor:
            return each.T.reshape(-1, fmt.block_size // columns)

        supers = of_blocks(torch.cat([each.supers for each in numbers]), fmt.block_size // 2)
        if fmt.block_size < SLAB:
            supers = supers.new_ones(levels.numel() // fmt.block_size, 2)
        scales = of_blocks(torch.cat([each.scales for each in numbers]), grid.group)
        minima = of_blocks(torch.cat([each.minima for each in numbers]), grid.group)
        held = stored.blocks(fmt, grid.storage, stored.Scales(supers, scales, minima), of_blocks(levels, 1))
        return held.view(rows, -1)
