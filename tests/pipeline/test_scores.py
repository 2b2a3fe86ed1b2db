"""Scores and perplexity as tasks: they go on where they were broken off, and are found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hubquant.commands.flags import Text, text_sources
from hubquant.commands.job import Job, carry_out
from hubquant.commands.measure import Asked, perplexity, score
from hubquant.engine.progress import Advance, Silent
from hubquant.engine.store import Store
from tests.support import choices

Prepare = Callable[[Store], Job[Any]]


class Counting(Silent):
    """Counts what bars of ``unit`` count, and breaks off at ``stop``."""

    def __init__(self, unit: str, stop: int | None = None) -> None:
        self.unit, self.stop = unit, stop
        self.steps: list[int] = []

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:  # noqa: ARG002
        yield self._count if unit == self.unit else lambda _: None

    def _count(self, n: int) -> None:
        self.steps.append(n)
        if sum(self.steps) == self.stop:
            raise KeyboardInterrupt


@pytest.fixture(params=["score", "perplexity"])
def work(request: pytest.FixtureRequest, tiny_llama: Path, tmp_path: Path) -> tuple[str, Prepare]:
    """Eight tasks, or eight overlapping windows."""
    file = choices.write_hellaswag(tmp_path / "tasks.txt", 12)
    if request.param == "score":
        asked = Asked(str(file), tasks=8)
        return "tasks", lambda store: score(str(tiny_llama), "hellaswag", asked, store, Silent())
    text = Text(text_sources([str(file)], ()), 8, 32)
    return "chunks", lambda store: perplexity(str(tiny_llama), text, store, Silent(), stride=16)


def test_what_is_broken_off_goes_on(work: tuple[str, Prepare], tmp_path: Path) -> None:
    unit, prepare = work
    whole = carry_out(prepare(other := Store(tmp_path / "other")), other, Silent())
    store = Store(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        carry_out(prepare(store), store, Counting(unit, stop=5))
    rest, again = Counting(unit), Counting(unit)
    assert carry_out(prepare(store), store, rest) == whole
    assert rest.steps == [5, 1, 1, 1]
    assert carry_out(prepare(store), store, again) == whole
    assert again.steps == []


def test_other_tasks_and_strides_are_other_artifacts(tiny_llama: Path, tmp_path: Path) -> None:
    file, store = choices.write_hellaswag(tmp_path / "tasks.txt", 12), Store(tmp_path / "store")
    jobs = [
        score(str(tiny_llama), "hellaswag", Asked(str(file), tasks=tasks, seed=seed), store, Silent())
        for tasks, seed in ((8, 1), (8, 2), (9, 1))
    ]
    text = Text(text_sources([str(file)], ()), 2, 32)
    jobs += [perplexity(str(tiny_llama), text, store, Silent(), stride=stride) for stride in (None, 2, 3)]
    assert len({goal.key for job in jobs for goal in job.goals}) == len(jobs)
