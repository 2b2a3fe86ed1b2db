"""Columns rounded one after the other, with the scales whose errors cost least: :mod:`feedback.kernels.columns`.

All trials of a group are side by side, [columns, trials, rows].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hubquant.quants.feedback.grids import Grid
from hubquant.quants.feedback.tensor.steps import STEPS, Nearest, Steps, inverse_of


@dataclass(frozen=True, eq=False)
class Slab:
    """How columns are rounded: their ``places`` int64 [k] in the slab, in their order, and ``passed_on`` [k, k] and
    ``cost`` [k] of the slab's moment in that order."""

    places: Tensor
    passed_on: Tensor
    cost: Tensor


@dataclass(frozen=True, eq=False)
class Numbers:
    """Of the rows of a slab: ``supers`` [2, rows], and ``scales`` and ``minima`` [groups, rows]."""

    supers: Tensor
    scales: Tensor
    minima: Tensor


@dataclass(frozen=True, eq=False)
class Columns:
    """The rounding of one type on one device."""

    grid: Grid
    device: torch.device

    @property
    def steps(self) -> Steps:
        return STEPS[self.grid.kind]

    @cached_property
    def nearest(self) -> Nearest:
        return self.steps.nearest(self.grid, self.device)

    @cached_property
    def _trials(self) -> tuple[Tensor, Tensor]:
        """How far the scales [scales, 1, 1] and minima [minima, 1] that are tried are away, the nearest first."""
        away, low_away = (
            torch.tensor(sorted(range(-reach, reach + 1), key=lambda k: (abs(k), -k)), dtype=torch.float32)
            for reach in (self.grid.reach, self.grid.low_reach)
        )
        return away.view(-1, 1, 1).to(self.device), low_away.view(-1, 1).to(self.device)

    def round(self, x: Tensor, slab: Slab, numbers: Numbers) -> tuple[Tensor, Tensor, Numbers]:
        """The levels and the values of ``x`` [k, rows], each [k, rows], and the scales and minima that were chosen
        around ``numbers``."""
        grid, steps = self.grid, self.steps
        y, levels, values = x[slab.places], torch.empty_like(x), torch.empty_like(x)
        groups = slab.places[:: grid.group] // grid.group
        scales, minima = numbers.scales[groups], numbers.minima[groups]
        d, dmin = numbers.supers
        for number, at in enumerate(range(0, len(x), grid.group)):
            stop = at + grid.group
            scale, minimum = self._tried(scales[number], minima[number], d)
            step, low = steps.step(d, scale), steps.low(dmin, minimum)
            tried, errors = self._errors(y[at:stop], step, low, slab.passed_on[at:stop, at:stop])
            lost = (errors.square() * slab.cost[at:stop].view(-1, 1, 1)).sum(0)
            best = lost.argmin(0, keepdim=True)
            scales[number], minima[number], step, low = (
                each.gather(0, best)[0] for each in (scale, minimum, step, low)
            )
            nearest, made = (each.gather(1, best.expand(grid.group, 1, -1))[:, 0] for each in (tried, errors))
            levels[at:stop], values[at:stop] = nearest, step * nearest - low
            y[stop:].addmm_(slab.passed_on[at:stop, stop:].T, made, alpha=-1)
        back, from_groups = slab.places.argsort(), groups.argsort()
        return levels[back], values[back], Numbers(numbers.supers, scales[from_groups], minima[from_groups])

    def _tried(self, scale: Tensor, minimum: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """The scales and minima that are tried around those [rows], each [trials, rows]."""
        away, low_away = self._trials
        scales = self.steps.near(self.grid, scale, away)
        minima = self.steps.near_low(self.grid, minimum, self.steps.step(d, scales), low_away)
        shape = (len(away), len(low_away), len(scale))
        return scales.expand(shape).flatten(0, 1), minima.expand(shape).flatten(0, 1)

    def _errors(self, y: Tensor, step: Tensor, low: Tensor, passed_on: Tensor) -> tuple[Tensor, Tensor]:
        """The levels of ``y`` [group, rows] for each ``step`` and ``low`` [trials, rows], and the errors that are made
        then, each [group, trials, rows]."""
        inverse = inverse_of(step)
        errors = y.unsqueeze(1) + low  # what is left of targets, until a level is subtracted
        levels = torch.empty_like(errors)
        factors = passed_on.unsqueeze(2).unsqueeze(3)
        for i, (error, level) in enumerate(zip(errors.unbind(), levels.unbind(), strict=True)):
            self.nearest(error * inverse, level)
            error.addcmul_(step, level, value=-1)
            errors[i + 1 :].addcmul_(error, factors[i, i + 1 :], value=-1)
        return levels, errors
