"""A sum over a whole vocabulary from a sample of it: which words stand for the others, and how far off the sum can be.

Words of a probability of at least ``threshold`` are all kept: the head. The others, the tail, are laid side by side in
the order of their probability, each as wide as its probability; that line is cut into pieces of equal mass, and one
point is drawn in each. The word there stands for the piece, so that a sum over the words drawn, each with the piece's
mass, has the sum over the tail as its expectation, whatever is summed (stratified sampling proportional to size).

Formulas and their derivation: docs/evaluation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

CERTAINTY = 0.999
"""With which the mean is within its bound."""

_RATES = (0.9, 0.3, 0.1, 0.03)
"""λ, chosen before anything is seen: the first is the best where the tail hardly differs, the others where it does."""

MOST_PER_TOKEN = 1e-4
"""The largest threshold: what a single token's divergence is off by stays small beside it."""

_PER_TOKEN = 1.7e-9
"""Threshold for each scored token of the text: keeps the bound under 1e-6 nats where ln p and ln q span 42 nats
together in the tail, as they do where a vocabulary has 128,000 words."""


def threshold_for(n_tokens: int) -> float:
    """The probability below which words of a text of ``n_tokens`` scored tokens are sampled. The bound of the mean
    grows with it and falls with the number of tokens."""
    return min(MOST_PER_TOKEN, _PER_TOKEN * n_tokens)


@dataclass(frozen=True)
class SampledRow:
    """Which words of a row are kept, by their places in the order of falling probability [n]: first those of the head,
    then those that were drawn. ``mass`` is the tail's, ``span`` the difference between the largest and the smallest
    ln p in it."""

    places: Tensor
    head: int
    mass: float
    span: float


def sample(ordered: Tensor, threshold: float, random: np.random.Generator) -> SampledRow:
    """Of ``ordered`` ln p, float64 [n_vocab], falling."""
    head = int((ordered >= math.log(threshold)).sum())
    tail = ordered[head:]
    line = tail.exp().cumsum(0).numpy()
    mass = float(line[-1]) if len(line) else 0.0
    pieces = max(1, math.ceil(mass / threshold))
    if pieces >= len(tail):
        return SampledRow(torch.arange(len(ordered)), len(ordered), 0.0, 0.0)
    points = (np.arange(pieces) + random.random(pieces)) * (mass / pieces)
    drawn = np.searchsorted(line, points, side="right").clip(max=len(tail) - 1)
    places = torch.cat([torch.arange(head), head + torch.from_numpy(drawn)])
    return SampledRow(places, head, mass, float(tail[0] - tail[-1]))


@dataclass(frozen=True)
class SampleError:
    """What the bound is made of, for each scored token, float64 [n] each.

    ``shift`` is the plain estimate less the one that is given; ``squares`` the sum of the squared differences of what
    was drawn from what was expected; ``reach`` how far apart two draws can be; ``rounding`` what the rounding of ln p
    makes at most. All zero where nothing was sampled.
    """

    shift: Tensor
    squares: Tensor
    reach: Tensor
    rounding: Tensor

    @classmethod
    def none(cls, n: int) -> SampleError:
        return cls(*torch.zeros(4, n, dtype=torch.float64))

    def stacked(self) -> Tensor:
        """float64 [4, n], in the order of the fields."""
        return torch.stack([getattr(self, field.name) for field in fields(self)])


class ErrorBound:
    """How far the mean over all tokens is from that of whole distributions at most, with ``CERTAINTY``."""

    def __init__(self) -> None:
        self._n = 0
        self._shift = self._squares = self._reach = self._rounding = 0.0

    def add(self, error: SampleError) -> None:
        self._n += len(error.shift)
        self._shift += float(error.shift.sum())
        self._squares += float(error.squares.sum())
        self._rounding += float(error.rounding.sum())
        self._reach = max(self._reach, float(error.reach.max()))

    def value(self) -> float:
        """An empirical Bernstein bound (Howard, Ramdas, McAuliffe, Sekhon 2021, Theorem 4) for the sum of the draws, in
        units of the largest reach: min over λ of (L + ψ(λ) Σ(y − ŷ)²) / λ, with ψ(λ) = −ln(1 − λ) − λ and L the
        logarithm of the number of sides and rates by the probability to fail."""
        if not self._reach:
            return self._rounding / self._n
        chances = math.log(2 * len(_RATES) / (1 - CERTAINTY))
        squares = self._squares / self._reach**2
        sums = [(chances + (-math.log1p(-rate) - rate) * squares) / rate for rate in _RATES]
        return (abs(self._shift) + self._reach * min(sums) + self._rounding) / self._n
