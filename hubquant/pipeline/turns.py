"""Which of several ways to do the same is the fastest: all are timed in turns, and pairs of each turn are compared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

MARGIN = 0.02  # what takes more memory must be faster by more than that
ERROR = 0.05  # the probability that a decision is wrong, over all comparisons of all looks
FIRST_LOOK = 4  # rounds; then after twice as many, and so on
MOST_ROUNDS = 64
GROWTH = 2  # a candidate takes at most so many times as long as the one before it


class NoRoomError(Exception):
    """Why a candidate, and with it each larger one, cannot be run."""


@dataclass(frozen=True)
class Decision:
    """``winner`` is a number of a candidate; ``beaten`` are those that need not be timed any more. What is not
    ``settled`` might come out otherwise with more rounds."""

    winner: int
    settled: bool
    beaten: frozenset[int]


@dataclass(frozen=True)
class Timings:
    """``speeds`` of each candidate that was timed, one for each of its rounds; ``ended`` says why larger ones were
    not."""

    speeds: tuple[tuple[float, ...], ...]
    decision: Decision
    ended: str | None


def decide(speeds: Sequence[Sequence[float]], error: float = ERROR) -> Decision:
    """The first candidate that no other one is surely faster than, where they stand in the order of the memory that
    they take: a later one must be faster by ``MARGIN``.

    ``speeds[i][k]`` is that of candidate ``i`` in round ``k``, in any unit; one that was beaten has fewer rounds. Sure
    is what a one-sided t-test of the logarithms of the ratios within each round says, with ``error`` divided among the
    pairs (Bonferroni).
    """
    n = len(speeds)
    of_pair = error / max(1, n * (n - 1))

    def is_above(i: int, j: int, bound: float) -> bool:
        ratios = [math.log(a / b) for a, b in zip(speeds[i], speeds[j], strict=False)]
        return surely_above(ratios, bound, of_pair)

    def is_beaten(i: int) -> bool:
        return any(is_above(j, i, math.log1p(MARGIN) if j > i else 0.0) for j in range(n) if j != i)

    beaten = frozenset(filter(is_beaten, range(n)))
    left = [i for i in range(n) if i not in beaten]
    winner = left[0]
    settled = all(is_above(winner, larger, -math.log1p(MARGIN)) for larger in left[1:])
    return Decision(winner, settled, beaten)


def search(
    n: int, measure: Callable[[int], float], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Timings:
    """Time ``n`` candidates, ordered by the memory that they take, until it is decided or ``seconds`` are over.

    ``measure(i)`` gives the speed of one run; the first one of each candidate is not counted. Rounds go up and down in
    turns, so that a machine that gets slower slows all alike. Whatever the time, the first candidate is run twice.
    Raises ``NoRoomError`` where it cannot be run.
    """
    begin = clock()
    tried, ended, compared = _warmed_up(n, measure, lambda: seconds - (clock() - begin), clock)
    speeds: list[list[float]] = [[] for _ in range(tried)]
    running, look = {*range(tried)}, 1
    for done in range(1, MOST_ROUNDS + 1):
        before = clock()
        for i in sorted(running, reverse=done % 2 == 0):
            if i >= len(speeds):
                continue
            try:
                speeds[i].append(measure(i))
            except NoRoomError as error:
                if i == 0:
                    raise
                ended = str(error)
                del speeds[i:]
        decision = decide(speeds, ERROR / 2**look)
        running = {*range(len(speeds))} & running
        if done == FIRST_LOOK * 2 ** (look - 1):
            running -= decision.beaten
            look += 1
            if decision.settled:
                break
        if clock() + (clock() - before) > begin + seconds:
            break
    return Timings(tuple(map(tuple, speeds)), replace(decision, settled=decision.settled and compared), ended)


def _warmed_up(
    n: int, measure: Callable[[int], float], left: Callable[[], float], clock: Callable[[], float]
) -> tuple[int, str | None, bool]:
    """How many candidates were run once, why no more of them, and whether there was time for a second one."""
    total = last = 0.0
    for i in range(n):
        if i and left() < FIRST_LOOK * total + (1 + FIRST_LOOK) * GROWTH * last:
            return i, "there was no time for them", i > 1
        before = clock()
        try:
            measure(i)
        except NoRoomError as error:
            if i == 0:
                raise
            return i, str(error), True
        last = clock() - before
        total += last
    return n, None, True


def surely_above(values: Sequence[float], bound: float, error: float) -> bool:
    """Whether the mean of what ``values`` are drawn from is above ``bound``, but for a probability of ``error``."""
    if len(values) < 2:
        return False
    above, spread = fmean(values) - bound, stdev(values)
    if above <= 0 or spread == 0:
        return above > 0
    return tail(above / spread * math.sqrt(len(values)), len(values) - 1) < error


def tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's t-distribution, t ≥ 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term = total = math.cos(angle) if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if freedom % 2 == 0:
        inside = math.sin(angle) * total
    else:
        inside = 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    return max(0.0, (1 - inside) / 2)
