"""Quantiles of many values in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

EXACT = 1 << 24
"""Values up to which quantiles are exact: 128 MiB of them."""
SKETCH_SIZE = 65_535
"""The k of the sketch, its largest: a quantile is one whose rank is off by at most 0.005 % of the values, with a
probability of 99 %."""


class Quantiles:
    """Exact for ``exact`` values; for more, those of Apache DataSketches' KLL sketch (Karnin, Lang and Liberty, 2016),
    which draws at random: two calls may differ within its bound."""

    def __init__(self, exact: int = EXACT) -> None:
        self._exact = exact
        self._parts: list[Tensor] = []
        self._n = 0
        self._sketch: Any = None

    def add(self, values: Tensor) -> None:
        """``values`` [n], n ≥ 1."""
        self._parts.append(values.double())
        self._n += len(values)
        if self._n > self._exact:
            self._move()

    def at(self, fractions: Sequence[float]) -> list[float]:
        """The quantiles at ``fractions`` from 0 to 1, which are minimum and maximum."""
        if self._sketch is not None:
            # no rank is sure to give the ends
            ends = {0.0: self._sketch.get_min_value(), 1.0: self._sketch.get_max_value()}
            return [float(ends[at] if at in ends else self._sketch.get_quantile(at)) for at in fractions]
        ordered = torch.cat(self._parts).sort().values
        return [quantile(ordered, fraction) for fraction in fractions]

    def _move(self) -> None:
        import datasketches

        if self._sketch is None:
            self._sketch = datasketches.kll_doubles_sketch(SKETCH_SIZE)
        for part in self._parts:
            self._sketch.update(part.numpy())
        self._parts = []


def quantile(ordered: Tensor, fraction: float) -> float:
    """Linear interpolation at place ``fraction * (n − 1)`` of sorted values [n], n ≥ 1; ``fraction`` from 0 to 1."""
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
