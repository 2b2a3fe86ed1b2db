"""Coordinate descent over codes, scales and super-scales: :mod:`feedback.kernels.descent` of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hubquant.quants.feedback.factor import turned
from hubquant.quants.feedback.sizes import SLAB
from hubquant.quants.feedback.tensor.columns import Columns, Numbers
from hubquant.quants.feedback.tensor.steps import inverse_of
from hubquant.quants.tensor.arithmetic import LARGEST, reciprocal, to_half


@dataclass(frozen=True, eq=False)
class Change:
    """Of the values along a direction u: what is left of ``slope`` = g · u and ``curve`` = u H uᵀ [rows]."""

    slope: Tensor
    curve: Tensor

    @property
    def least(self) -> Tensor:
        """The best one."""
        return -self.slope * reciprocal(self.curve)

    def gains(self, change: Tensor) -> Tensor:
        """Where a change lowers the error."""
        return change * (2 * self.slope + change * self.curve) < 0

    def take(self, kept: Tensor, other: Tensor, moved: Tensor, products: Tensor, gradient: Tensor) -> None:
        """Put ``other`` in the place of what is ``kept`` where that gains, which changes the values by ``moved`` times
        u; ``products`` are H u, and ``gradient`` is kept up to date."""
        better = self.gains(moved)
        kept.copy_(torch.where(better, other, kept))
        gradient.addcmul_(products, torch.where(better, moved, 0))


def descend(
    columns: Columns, weights: Tensor, moment: Tensor, numbers: list[Numbers], levels: Tensor, values: Tensor
) -> None:
    """Change the ``numbers`` of slabs, ``levels`` and ``values`` [n, rows] that stand for ``weights`` [n, rows];
    ``moment`` are the panels of H."""
    n = len(weights)
    rest = weights - values
    for _ in range(columns.grid.sweeps):
        for start, of_slab in zip(range(0, n, SLAB), numbers, strict=True):
            slab = slice(start, min(start + SLAB, n))
            h = turned(moment, slice(0, n), slab)
            _Descent(columns, h[:, slab].contiguous(), of_slab, levels[slab], values[slab], -(h @ rest)).sweep()
            rest[slab] = weights[slab] - values[slab]


@dataclass(frozen=True, eq=False)
class _Descent:
    """In a slab of ``h`` [k, k]: its ``numbers``, ``levels``, ``values`` and g = (v − w) H, ``gradient`` [k, rows], all
    of which change."""

    columns: Columns
    h: Tensor
    numbers: Numbers
    levels: Tensor
    values: Tensor
    gradient: Tensor

    def sweep(self) -> None:
        for number, group in enumerate(self._groups()):
            self._group(number, group)
        if self.columns.steps.supers:
            for which in range(2 if self.columns.grid.has_minima else 1):
                self._super(which)

    def _groups(self) -> Iterator[slice]:
        size = self.columns.grid.group
        return (slice(at, at + size) for at in range(0, len(self.h), size))

    def _group(self, number: int, group: slice) -> None:
        grid, steps = self.columns.grid, self.columns.steps
        d, dmin = self.numbers.supers
        scale, minimum = self.numbers.scales[number], self.numbers.minima[number]
        step, low = steps.step(d, scale), steps.low(dmin, minimum)
        levels, values, gradient = self.levels[group], self.values[group], self.gradient[group]
        own, before = self.h[group, group], values.clone()
        self._codes(levels, gradient, own, step)
        products = own @ levels
        change = Change((levels * gradient).sum(0), (levels * products).sum(0))
        other = steps.fit(grid, d, step + change.least)
        change.take(scale, other, steps.step(d, other) - step, products, gradient)
        step = steps.step(d, scale)
        if grid.has_minima:
            products = -own.sum(1, keepdim=True)
            change = Change(-gradient.sum(0), own.sum())
            other = steps.fit_low(grid, dmin, low + change.least)
            change.take(minimum, other, steps.low(dmin, other) - low, products, gradient)
            low = steps.low(dmin, minimum)
        self._renew(levels, values, step, low)
        difference = values - before
        for others in (slice(0, group.start), slice(group.stop, len(self.h))):
            self.gradient[others].addmm_(self.h[others, group], difference)

    def _codes(self, levels: Tensor, gradient: Tensor, own: Tensor, step: Tensor) -> None:
        per_slope = (inverse_of(step) / -own.diagonal().unsqueeze(1)).clamp(-LARGEST, LARGEST)
        undone = -step * levels
        for i, (level, slope) in enumerate(zip(levels.unbind(), gradient.unbind(), strict=True)):
            self.columns.nearest(torch.addcmul(level, slope, per_slope[i]), level)
            change = torch.addcmul(undone[i], step, level)
            gradient.addcmul_(change, own[i].unsqueeze(1))

    def _renew(self, levels: Tensor, values: Tensor, step: Tensor, low: Tensor) -> None:
        torch.mul(step, levels, out=values)
        values -= low

    def _super(self, which: int) -> None:
        """d, or dmin for ``which`` = 1."""
        steps, numbers, size = self.columns.steps, self.numbers, self.columns.grid.group
        each = (-numbers.minima if which else numbers.scales).repeat_interleave(size, 0)
        direction = each if which else each * self.levels
        products = self.h @ direction
        change = Change((direction * self.gradient).sum(0), (direction * products).sum(0))
        old = numbers.supers[which]
        other = to_half(old + change.least)
        change.take(old, other, other - old, products, self.gradient)
        d, dmin = numbers.supers
        step, low = steps.step(d, numbers.scales), steps.low(dmin, numbers.minima)
        self._renew(self.levels, self.values, step.repeat_interleave(size, 0), low.repeat_interleave(size, 0))
