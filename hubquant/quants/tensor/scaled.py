"""A scale of either sign per block: x ≈ scale · level, the levels evenly spaced or any others.

``x`` and ``w`` [..., n] are weights and the weight of each squared error; scales are [...].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hubquant.quants.tensor.arithmetic import (
    LARGEST,
    LARGEST_HALF,
    extreme,
    keep_better,
    reciprocal,
    rounded,
    to_half,
    total,
)
from hubquant.quants.tensor.fusion import fused, per_block

_REFITS = 2


class Levels(Protocol):
    """What codes stand for, in units of the scale; ``low`` < 0 ≤ ``high`` are the outermost levels."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    def nearest(self, value: Tensor) -> Tensor:
        """The nearest level."""

    def code(self, value: Tensor) -> Tensor:
        """The stored code of the nearest level."""


@dataclass(frozen=True)
class Even:
    """The whole numbers low … high, stored from 0."""

    low: float
    high: float

    def nearest(self, value: Tensor) -> Tensor:
        return rounded(value, self.low, self.high)

    def code(self, value: Tensor) -> Tensor:
        return self.nearest(value) - self.low


@dataclass(frozen=True)
class Uneven:
    """``values`` in rising order, the first stored as code ``order[0]`` and so on."""

    values: tuple[float, ...]
    order: tuple[int, ...]

    @property
    def low(self) -> float:
        return self.values[0]

    @property
    def high(self) -> float:
        return self.values[-1]

    def nearest(self, value: Tensor) -> Tensor:
        return value.new_tensor(self.values)[self._rank(value)]

    def code(self, value: Tensor) -> Tensor:
        return torch.tensor(self.order, device=value.device)[self._rank(value)]

    def _rank(self, value: Tensor) -> Tensor:
        values = value.new_tensor(self.values)
        return torch.bucketize(value, (values[1:] + values[:-1]) / 2)


def codes_of(x: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """The stored codes [..., n] of the levels nearest to ``x`` [..., n] / ``scale`` [...]."""
    return levels.code(x * reciprocal(scale).unsqueeze(-1))


def scaled_error(x: Tensor, w: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """Σ w·(scale·level − x)² with the best levels."""
    error = scale.unsqueeze(-1) * levels.nearest(x * reciprocal(scale).unsqueeze(-1)) - x
    return total(w * (error * error))


def _sums(x: Tensor, w: Tensor, inverse: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Σ w·x·level and Σ w·level² of the levels that an inverse scale gives."""
    level = levels.nearest(inverse.unsqueeze(-1) * x)
    weighted = w * level
    return total(weighted * x), total(weighted * level)


@fused(per_block)
def search_scale(x: Tensor, w: Tensor, start: Tensor, levels: Levels, shifts: tuple[float, ...]) -> Tensor:
    """The best scale by least squares among those that bring the extreme to the first or the last level and ``shifts``
    beyond; ``start`` where all levels are 0.

    For fixed levels the error of the best scale is Σ w·x² − (Σ w·x·level)² / Σ w·level², so one pass suffices.
    """
    scale, best = start, torch.zeros_like(start)
    per_value = reciprocal(extreme(x))
    for shift in shifts:
        for level in (levels.low - shift, levels.high + shift):
            lx, ll = _sums(x, w, per_value * level, levels)
            fitted = lx / ll
            gain = fitted * lx
            better = (gain > best) & (gain < LARGEST) & (fitted.abs() < LARGEST_HALF)
            best, scale = keep_better(better, (gain, fitted), (best, scale))
    return scale


@fused(per_block)
def fit_scale(x: Tensor, w: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """The best scale for the levels that ``scale`` gives."""
    lx, ll = _sums(x, w, reciprocal(scale), levels)
    fitted = lx / ll
    return torch.where(fitted.abs() < LARGEST, fitted, scale)


@fused(per_block)
def error_of(x: Tensor, w: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """:func:`scaled_error` as one kernel."""
    return scaled_error(x, w, scale, levels)


def half_scale(x: Tensor, w: Tensor, start: Tensor, levels: Levels, shifts: tuple[float, ...]) -> Tensor:
    """A half-precision scale: the better of ``start`` and the best found around it."""
    return _best_of_refits(error_of, x, w, start, levels, shifts)


def fast_half_scale(x: Tensor, w: Tensor, start: Tensor, levels: Levels, shifts: tuple[float, ...]) -> Tensor:
    """The same by errors less Σ w·x², for levels so few that the difference does not cancel."""
    return _best_of_refits(_excess, x, w, start, levels, shifts)


def _best_of_refits(
    error_with: Callable[[Tensor, Tensor, Tensor, Levels], Tensor],
    x: Tensor,
    w: Tensor,
    start: Tensor,
    levels: Levels,
    shifts: tuple[float, ...],
) -> Tensor:
    best_d = to_half(start)
    best = error_with(x, w, best_d, levels)
    d = to_half(search_scale(x, w, start, levels, shifts))
    for step in range(_REFITS + 1):
        error = error_with(x, w, d, levels)
        best, best_d = keep_better(error < best, (error, d), (best, best_d))
        if step < _REFITS:
            d = to_half(fit_scale(x, w, d, levels))
    return best_d


@fused(per_block)
def _excess(x: Tensor, w: Tensor, d: Tensor, levels: Levels) -> Tensor:
    lx, ll = _sums(x, w, reciprocal(d), levels)
    return d * (d * ll - 2 * lx)


# ---- super-blocks: x and w [blocks, groups, n]; integer scales [blocks, groups], d [blocks] -------------------------


@fused(per_block)
def _nearest_scales(
    x: Tensor, w: Tensor, d: Tensor, scales: Tensor, levels: Levels, bounds: Even, reach: int
) -> tuple[Tensor, Tensor]:
    """The best of each integer scale and its neighbours up to ``reach`` away, also around the scale of other sign that
    brings the same value to the other end of the levels; and its error.
    """
    d = d.unsqueeze(-1)
    best, found = scaled_error(x, w, d * scales, levels), scales
    mirrored = torch.round(scales * (levels.low / levels.high if reach > 1 else 1))
    for centre in (scales, mirrored) if reach > 1 else (scales,):
        for shift in range(-reach, reach + 1):
            other = (centre + shift).clamp(bounds.low, bounds.high)
            error = scaled_error(x, w, d * other, levels)
            best, found = keep_better(error < best, (error, other), (best, found))
    return best, found


@fused(per_block)
def _sums_of(x: Tensor, w: Tensor, scale: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    return _sums(x, w, reciprocal(scale), levels)


def refine_scales(
    x: Tensor, w: Tensor, d: Tensor, scale: Tensor, levels: Levels, bounds: Even, reach: int, rounds: int
) -> tuple[Tensor, ...]:
    """``(error, d, scales)``: the real ``scale`` [blocks, groups] rounded to integers within ``bounds`` times d; then
    each round tries neighbouring integers, at first up to ``reach`` away, and fits d anew.
    """
    scales = bounds.nearest(scale * reciprocal(d).unsqueeze(-1))
    found: tuple[Tensor, ...] = (torch.full_like(d, LARGEST), d, scales)
    for step in range(rounds):
        errors, scales = _nearest_scales(x, w, d, scales, levels, bounds, 1 if step else reach)
        error = total(errors)
        found = keep_better(error < found[0], (error, d, scales), found)
        if step + 1 < rounds:
            lx, ll = _sums_of(x, w, d.unsqueeze(-1) * scales, levels)
            fitted = total(scales * lx) / total(scales * scales * ll)
            d = torch.where(fitted.abs() < LARGEST, to_half(fitted), d)
    return found
