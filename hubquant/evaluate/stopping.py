"""When a measurement is sure enough to stop: confidence intervals by block bootstrap, looked at while chunks come in.

An interval is the estimate ± t · error, with the standard error of the bootstrap and Student's t for as many chunks as
there are. Who looks often and stops at the first narrow interval stops too early too often: so there are at least
``LEAST`` chunks, looks are ``GROWTH`` apart, and intervals are ``CAUTION`` times as wide, and wider by the skewness of
the bootstrap. docs/evaluation.md has what
that comes to on chunks of real measurements (``python -m benchmarks.stopping``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from hubquant.evaluate.blocks import Blocks, Resampled, Values

LEAST = 20
GROWTH = 1.2
CAUTION = 1.25
SEED = 0


@dataclass(frozen=True)
class Precision:
    """What is asked for: with the probability ``confidence`` the truth lies within ``margin`` of an estimate, relative
    to it, for the mean KLD as for the composite score."""

    confidence: float
    margin: float


@dataclass(frozen=True)
class Stop:
    """After how many of the chunks a measurement stopped, and the half widths that the intervals had then, relative to
    the estimates; not ``reached`` where the chunks were too few for the ``margin``."""

    confidence: float
    margin: float
    chunks: int
    of: int
    kld: float
    composite: float

    @property
    def reached(self) -> bool:
        return max(self.kld, self.composite) <= self.margin


class Watch:
    """Looks at the chunks that come in until they are sure enough; ``stop`` is what the last look saw."""

    def __init__(self, wanted: Precision, n_chunks: int) -> None:
        self._wanted = wanted
        self._blocks = Blocks()
        self._n_chunks, self._seen = n_chunks, 0
        self._looks = frozenset(looks(n_chunks))
        self.stop: Stop | None = None

    def is_sure(self, kld: Tensor) -> bool:
        """Whether it is enough with the chunk of the divergences ``kld`` [n]."""
        self._blocks.add(kld)
        self._seen += 1
        if self._seen not in self._looks:
            return False
        widths = relative_half_widths(self._blocks, self._wanted.confidence)
        self.stop = Stop(self._wanted.confidence, self._wanted.margin, self._seen, self._n_chunks, *widths)
        return self.stop.reached


def visiting_order(n_chunks: int) -> list[int]:
    """Chunks at random: the first ones of a text are not like the others."""
    return torch.randperm(n_chunks, generator=torch.Generator().manual_seed(SEED)).tolist()


def looks(n_chunks: int) -> Sequence[int]:
    """After how many chunks the intervals are looked at; the last is after all."""
    found, at = list[int](), LEAST
    while at < n_chunks:
        found.append(at)
        at = math.ceil(at * GROWTH)
    return [*found, n_chunks]


def relative_half_widths(blocks: Blocks, confidence: float) -> tuple[float, float]:
    """Of the intervals of mean KLD and composite score; infinite for one block, 0 where nothing diverges."""
    if len(blocks) < 2:
        return math.inf, math.inf
    drawn, factor = blocks.resample(), CAUTION * student(1 / 2 + confidence / 2, len(blocks) - 1)
    kld, composite = (
        factor * _error(values) * math.sqrt(len(blocks) / (len(blocks) - 1)) / estimate if estimate > 0 else 0.0
        for values, estimate in zip((drawn.mean, drawn.composite), blocks.estimates(), strict=True)
    )
    return kld, composite


def _error(drawn: Values) -> float:
    """Standard error, larger by the skewness of what was drawn: few chunks have not seen the tail that they tell of."""
    error = float(drawn.std())
    skewness = float((((drawn - drawn.mean()) / error) ** 3).mean()) if error else 0.0
    return error * (1 + max(skewness, 0.0))


def student(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion 26.7.5 of Abramowitz and Stegun; off by less than 2 % for up to 0.995
    and ``freedom`` from 4 on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms)))


def paired_half_width(difference: Resampled, n_blocks: int, confidence: float) -> float:
    """Of the confidence interval of a difference of composite scores on the same blocks; infinite for one block."""
    if n_blocks < 2:
        return math.inf
    error = math.sqrt(n_blocks / (n_blocks - 1)) * float(difference.composite.std())
    return student(1 / 2 + confidence / 2, n_blocks - 1) * error
