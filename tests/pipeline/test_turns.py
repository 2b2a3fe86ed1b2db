"""Which of several is the fastest, on timings that are made up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hubquant.pipeline.turns import NoRoomError, Timings, decide, search, tail


class Machine:
    """Candidates of known ``speeds``, whose runs take a second each at speed 1 on a clock of its own; noise is a share
    of the speed, ``drift`` what the whole machine becomes slower by in each second."""

    def __init__(self, speeds: list[float], noise: float = 0.01, drift: float = 0.0, seed: int = 0) -> None:
        self._speeds, self._noise, self._drift = speeds, noise, drift
        self._random = random.Random(seed)
        self.now = 0.0
        self.runs: list[int] = []

    def __call__(self, i: int) -> float:
        speed = self._speeds[i] * (1 - self._drift) ** self.now * self._random.gauss(1, self._noise)
        self.now += 1.0
        self.runs.append(i)
        return speed

    def searched(self, seconds: float = 1000) -> Timings:
        return search(len(self._speeds), self, seconds, lambda: self.now)


def test_the_tails_are_those_of_tables() -> None:
    """Two-sided 1 % and 5 %, of odd and even degrees of freedom."""
    table = {1: (63.657, 12.706), 2: (9.925, 4.303), 3: (5.841, 3.182), 10: (3.169, 2.228), 29: (2.756, 2.045)}
    for freedom, (at_1, at_5) in table.items():
        assert tail(at_1, freedom) == pytest.approx(0.005, rel=1e-3)
        assert tail(at_5, freedom) == pytest.approx(0.025, rel=1e-3)
        assert tail(0, freedom) == pytest.approx(0.5)


@pytest.mark.parametrize("speeds", [[100, 120, 130], [130, 100, 110], [100, 130, 131], [100, 140, 90]])
def test_the_known_winner_is_found(speeds: list[float]) -> None:
    """Of two that differ by less than the margin the smaller one."""
    for seed in range(10):
        found = Machine(speeds, seed=seed).searched()
        best = max(speeds)
        assert found.decision.winner == next(i for i, speed in enumerate(speeds) if speed > best / 1.02)
        assert found.decision.settled


def test_without_a_difference_the_smallest_stays() -> None:
    winners = [Machine([100] * 4, noise=0.05, seed=seed).searched().decision.winner for seed in range(40)]
    assert winners.count(0) >= 38


def test_drift_fools_nobody() -> None:
    """The machine ends at a seventh of its speed; what is timed later is not slower for that."""
    for seed in range(10):
        even = Machine([100] * 3, drift=0.01, seed=seed).searched(200)
        assert even.decision.winner == 0
        faster = Machine([100, 115, 100], drift=0.01, seed=seed).searched(200)
        assert (faster.decision.winner, faster.decision.settled) == (1, True)


def test_a_clear_case_ends_early_and_what_is_beaten_is_not_timed_on() -> None:
    clear = Machine([100, 200])
    clear.searched()
    assert len(clear.runs) == 2 + 2 * 4
    found = Machine([50, 100, 103], noise=0.02).searched()
    assert len(found.speeds[0]) < len(found.speeds[1])


def test_time_that_is_over_leaves_the_decision_open() -> None:
    found = Machine([100, 103], noise=0.2).searched(20)
    assert (found.decision.winner, found.decision.settled) == (0, False)
    short = Machine([100, 200]).searched(0)
    assert ([len(speeds) for speeds in short.speeds], short.ended) == ([1], "there was no time for them")
    assert not short.decision.settled
    some = Machine([100, 200, 300, 400]).searched(24)
    assert (len(some.speeds), some.decision.winner, some.decision.settled) == (3, 2, True)


def full(machine: Machine, i: int, from_run: int) -> Callable[[int], float]:
    def measure(j: int) -> float:
        if j >= i and len(machine.runs) >= from_run:
            raise NoRoomError("no room")
        return machine(j)

    return measure


@pytest.mark.parametrize("from_run", [0, 5])
def test_what_does_not_fit_ends_the_list(from_run: int) -> None:
    """At its first run or at a later one, also if it was the fastest by then."""
    machine = Machine([100, 120, 300])
    found = search(3, full(machine, 2, from_run), 1000, lambda: machine.now)
    assert (len(found.speeds), found.decision.winner, found.ended) == (2, 1, "no room")
    with pytest.raises(NoRoomError):
        search(3, full(Machine([1, 1, 1]), 0, 0), 1000)


def test_one_run_decides_nothing() -> None:
    assert decide([[1.0], [9.0]]).winner == 0
    assert not decide([[1.0], [9.0]]).settled
