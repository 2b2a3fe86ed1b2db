"""Let the text of an importance matrix grow until the file that is made with it gets no better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from hubquant.engine.local import make
from hubquant.engine.task import Context
from hubquant.pipeline.ladder import Ladder, Rung
from hubquant.pipeline.results import REPORT

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence
    from hubquant.evaluate.blocks import Blocks, Resampled


@dataclass(frozen=True)
class Gap:
    """By how much a composite score is better than another one, ± ``half_width`` of the confidence interval."""

    value: float
    half_width: float

    @property
    def is_sure(self) -> bool:
        return self.value > self.half_width


@dataclass(frozen=True)
class Step:
    """What one rung came to. ``gain`` is over the best one of the rung before, ``behind`` the leader of its own one;
    ``dropped`` where it surely is."""

    mix: str
    chunks: int
    tokens: int
    kld: float
    kld_error: float | None
    composite: float
    composite_error: float | None
    gain: Gap | None = None
    behind: Gap | None = None
    dropped: bool = False


@dataclass(frozen=True)
class Climb:
    """``best`` is the step with the least composite score among those with a matrix, and ``rung`` its tasks;
    ``settled`` where the last gain lies within its confidence interval. ``over_none`` is the best one's gain over the
    file without a matrix, None where there is no such file."""

    steps: tuple[Step, ...]
    best: Step
    rung: Rung
    confidence: float
    settled: bool
    over_none: Gap | None


@dataclass(frozen=True)
class Measured:
    """What a file came to whose matrix has seen ``chunks`` of ``mix``."""

    mix: str
    chunks: int
    tokens: int
    divergence: Divergence
    blocks: Blocks = field(repr=False)

    @classmethod
    def of(cls, rung: Rung, context: Context) -> Measured:
        from hubquant.evaluate.blocks import Blocks
        from hubquant.evaluate.report_file import open_report

        found = context.read(rung.evaluation)
        with open_report(context.store.path(rung.evaluation) / REPORT) as report:
            return cls(rung.mix, rung.chunks, rung.tokens, found, Blocks.of(report.kld()))

    @cached_property
    def resampled(self) -> Resampled:
        return self.blocks.resample()

    @property
    def score(self) -> float:
        return self.divergence.composite or 0.0

    def better_than(self, other: Measured, confidence: float) -> Gap:
        """Paired: both were measured on the same chunks, and the same of them are drawn."""
        from hubquant.evaluate.stopping import paired_half_width

        width = paired_half_width(other.resampled - self.resampled, len(self.blocks), confidence)
        return Gap(other.score - self.score, width)

    def step(self, gain: Gap | None = None, behind: Gap | None = None) -> Step:
        return Step(
            mix=self.mix,
            chunks=self.chunks,
            tokens=self.tokens,
            kld=self.divergence.kld.mean,
            kld_error=self.divergence.kld_block_error,
            composite=self.score,
            composite_error=self.divergence.composite_error,
            gain=gain,
            behind=behind,
            dropped=behind is not None and behind.is_sure,
        )


def judge(found: Sequence[Measured], before: Measured | None, confidence: float) -> list[Step]:
    """The steps of one rung: each against the best one ``before`` and against the leader."""
    leader = leading(found)
    each_sure = 1 - (1 - confidence) / max(len(found) - 1, 1)  # so many are compared with the leader
    return [
        each.step(
            gain=each.better_than(before, confidence) if before else None,
            behind=None if each is leader else leader.better_than(each, each_sure),
        )
        for each in found
    ]


def leading(found: Sequence[Measured]) -> Measured:
    """Of equal ones that with the least text."""
    return min(found, key=lambda each: (each.score, each.chunks))


def climb(ladder: Ladder, confidence: float, context: Context) -> Climb:
    """One rung after the other, all mixtures of a rung beside each other; those that surely fall behind the leader are
    left, and the climb ends where the leader's gain over the last one lies within its confidence interval.

    Everything is a task of the store: a killed climb goes on where it was.
    """
    steps, seen = list[Step](), list[Measured]()
    before: Measured | None = None
    if ladder.bare:
        [before] = _measure([ladder.bare], context)
        steps.append(before.step())
    bare = before
    left, settled = list(ladder.mixes), False
    for level in range(ladder.height):
        found = _measure([ladder.mixes[name][level] for name in left], context)
        judged, leader = judge(found, before, confidence), leading(found)
        steps += judged
        seen += found
        left = [step.mix for step in judged if not step.dropped]
        if level and before and not leader.better_than(before, confidence).is_sure:
            settled = True
            break
        before = leader
    best = leading(seen)
    step = next(each for each in steps if (each.mix, each.chunks) == (best.mix, best.chunks))
    rung = next(each for each in ladder.mixes[best.mix] if each.chunks == best.chunks)
    return Climb(tuple(steps), step, rung, confidence, settled, best.better_than(bare, confidence) if bare else None)


def _measure(rungs: Sequence[Rung], context: Context) -> list[Measured]:
    make([rung.evaluation for rung in rungs], context.store, context.progress)
    return [Measured.of(rung, context) for rung in rungs]
