"""How sure a mean and a composite score are: block bootstrap over chunks, whose tokens are not independent.

The composite score is median^(1/3) · (KLD₉₉ + 4 · KLD₉₅ + 5 · KLD₉₀)^(2/3) of the tokens' divergences, in nats, as the
guide of llama-gguf-optimize proposes it: https://github.com/robbiemu/llama-gguf-optimize
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]

SMALLEST = 1e-12
LARGEST = 100.0
STEP = math.log(1.05)
N_BINS = math.ceil(math.log(LARGEST / SMALLEST) / STEP)
MOST_BLOCKS = 2048
RESAMPLES = 1000
FRACTIONS = (0.5, 0.9, 0.95, 0.99)


def composite_score(median: float, kld_90: float, kld_95: float, kld_99: float) -> float:
    """Rounding may have made a divergence of nothing negative: it counts as 0."""
    tail = kld_99 + 4 * kld_95 + 5 * kld_90
    return math.pow(max(median, 0.0), 1 / 3) * math.pow(max(tail, 0.0), 2 / 3)


@dataclass(frozen=True)
class Resampled:
    """Mean and composite score of ``RESAMPLES`` draws of as many chunks as there are, float64 [RESAMPLES] each."""

    mean: Values
    composite: Values

    def __sub__(self, other: Resampled) -> Resampled:
        """Paired: draws of equally many chunks are of the same chunks."""
        return Resampled(self.mean - other.mean, self.composite - other.composite)


class Blocks:
    """What is kept of each chunk: the sum of its divergences, and how many lie in each of ``N_BINS`` bins that are 5 %
    wide, of which a quantile is interpolated.

    Of more than ``MOST_BLOCKS`` chunks neighbours are put together, so that memory stays bounded.
    """

    def __init__(self) -> None:
        self._sums: list[float] = []
        self._counts: list[NDArray[np.int32]] = []
        self._chunks_in_block = 1
        self._open = 0

    def __len__(self) -> int:
        return len(self._sums)

    def add(self, kld: Tensor) -> None:
        """The divergences [n] of the tokens of one chunk."""
        counts = np.bincount(_bins(kld), minlength=N_BINS).astype(np.int32)
        if self._open % self._chunks_in_block:
            self._sums[-1] += float(kld.sum())
            self._counts[-1] = self._counts[-1] + counts
        else:
            self._sums.append(float(kld.sum()))
            self._counts.append(counts)
        self._open += 1
        if len(self) == MOST_BLOCKS and self._open % self._chunks_in_block == 0:
            self._sums = [a + b for a, b in zip(self._sums[::2], self._sums[1::2], strict=True)]
            self._counts = [a + b for a, b in zip(self._counts[::2], self._counts[1::2], strict=True)]
            self._chunks_in_block *= 2

    @classmethod
    def of(cls, chunks: Iterable[Tensor]) -> Blocks:
        """Of the divergences [n] of each chunk."""
        blocks = cls()
        for kld in chunks:
            blocks.add(kld)
        return blocks

    def resample(self) -> Resampled:
        """By a generator that always begins with the same seed."""
        n = len(self)
        return self._weighted(np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES))

    def estimates(self) -> tuple[float, float]:
        """Mean and composite score of what there is."""
        found = self._weighted(np.ones((1, len(self)), dtype=np.int64))
        return float(found.mean[0]), float(found.composite[0])

    def errors(self) -> tuple[float, float] | None:
        """Standard errors of mean and composite score; None for one block, which tells nothing of others."""
        n = len(self)
        if n < 2:
            return None
        found, small = self.resample(), math.sqrt(n / (n - 1))
        return small * float(found.mean.std()), small * float(found.composite.std())

    def _weighted(self, weights: NDArray[np.int64]) -> Resampled:
        """Where each block counts as often as ``weights`` [draws, blocks] say."""
        counts = np.stack(self._counts)
        used = np.flatnonzero(counts.any(axis=0))
        first, end = used[0], used[-1] + 1
        drawn = weights.astype(np.float32) @ counts[:, first:end].astype(np.float32)
        below = np.cumsum(drawn, axis=1, dtype=np.float64)
        scale = math.exp(STEP * first) * SMALLEST
        return Resampled(weights @ np.array(self._sums) / below[:, -1], _composites(below, scale))


def _bins(kld: Tensor) -> NDArray[np.int64]:
    places = ((kld.double().clamp(SMALLEST, LARGEST) / SMALLEST).log() / STEP).floor()
    return places.to(torch.int64).clamp(max=N_BINS - 1).numpy()


def _composites(below: Values, first: float) -> Values:
    """Of ``below`` [draws, bins], how many divergences lie in a bin or below it; ``first`` begins the first bin."""
    quantiles = [first * _quantiles(below, fraction) for fraction in FRACTIONS]
    return np.array([composite_score(*of_draw) for of_draw in zip(*quantiles, strict=True)])


def _quantiles(below: Values, fraction: float) -> Values:
    place = fraction * (below[:, -1] - 1)
    at = np.minimum((below <= place[:, None]).sum(axis=1), below.shape[1] - 1)
    rows: Sequence[int] = range(len(below))
    before = np.where(at > 0, below[rows, at - 1], 0.0)
    inside = (place - before + 0.5) / np.maximum(below[rows, at] - before, 1)
    found: Values = np.exp(STEP * (at + inside))
    return found
