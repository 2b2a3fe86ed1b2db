"""What is left to do and in which order, and that it is done so."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

from hubquant.engine.local import make
from hubquant.engine.progress import Silent
from hubquant.engine.schedule import estimate, missing, stages
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from tests.support.tasks import Bell, Given, Judged, Sweep, Text, logged


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(store: Store, *goals: Text, fresh: bool = False) -> list[str]:
    make(goals, store, Silent(), fresh=fresh)
    return logged(store.root)


def test_a_task_is_its_key() -> None:
    a = Text("a", (Given("x"),))
    assert a == Text("a", (Given("x"),))
    assert a != Text("a", (Given("y"),))
    assert a.key != Text("a").key != Judged("a").key
    assert pickle.loads(pickle.dumps(a)) == a
    assert a in {Text("a", (Given("x"),))}


def test_inputs_come_first_and_nothing_is_made_twice(store: Store) -> None:
    a = Text("a")
    goals = Text("c", (Text("b", (a,)), a)), Text("d", (a, Given("x")))
    assert made(store, *goals) == ["a", "b", "c", "d"] or made(store, *goals) == ["a", "b", "d", "c"]
    assert Context(store, Silent()).read(goals[0]) == "a b a c"
    assert Context(store, Silent()).read(goals[1]) == "a x d"
    assert made(store, *goals) == []
    assert made(store, *goals, Text("e", (a,))) == ["e"]


def test_inputs_that_are_gone_are_made_only_for_what_is_missing(store: Store) -> None:
    a, b = Text("a"), Text("b")
    c = Text("c", (a,))
    made(store, b, c)
    store.forget(a)
    assert missing([b, c], store) == []
    assert made(store, b, c) == []
    assert made(store, b, Text("d", (a,))) == ["a", "d"]


def test_what_shares_something_runs_beside_each_other(store: Store) -> None:
    bell, sweep = Bell("bell"), Sweep("sweep")
    first, second = Text("a", with_=bell), Text("b", with_=bell)
    swept = [Text(word, (first,), with_=sweep) for word in "xy"]
    goals = [*swept, Text("between"), second]
    lines = made(store, *goals)
    bells = lines.index("open bell")
    assert lines[bells : bells + 4] == ["open bell", "a", "b", "close bell"]
    assert lines[lines.index("sweep: x y") :][:3] == ["sweep: x y", "x", "y"]
    assert "between" in lines


def test_what_shares_waits_until_all_of_it_can_run() -> None:
    bell = Bell("bell")
    early = Text("early", with_=bell)
    needed = Text("needed")
    late = Text("late", (needed,), with_=bell)
    assert [[task.word for task in stage.tasks] for stage in stages([early, needed, late])] == [  # type: ignore[attr-defined]
        ["needed"],
        ["early", "late"],
    ]
    chained = Text("chained", (early,), with_=bell)
    assert [len(stage.tasks) for stage in stages([early, chained])] == [1, 1]


def test_a_failure_leaves_what_was_finished(store: Store) -> None:
    good = Text("good")
    with pytest.raises(ValueError, match="bad"):
        make([good, Text("bad", (good,), fails=True)], store, Silent())
    assert logged(store.root) == ["good", "bad"]
    assert (store.building_path(Text("bad", (good,))) / "half.txt").exists()
    assert made(store, good, Text("bad", (good,))) == ["bad"]


def test_damaged_artifacts_are_made_again_with_what_tells_of_them(store: Store) -> None:
    a = Text("a")
    judged, other = Judged("judged", (a,)), Text("other", (a,))
    made(store, judged, other)
    (store.path(a) / "text.txt").write_text("A")
    assert made(store, judged, other) == ["a", "judged"]


def test_fresh_makes_everything_again(store: Store) -> None:
    goals = Text("b", (Text("a"),)), Text("c")
    assert sorted(made(store, *goals)) == sorted(made(store, *goals, fresh=True)) == ["a", "b", "c"]


def test_an_estimate_is_a_fold_over_what_is_left(store: Store) -> None:
    a = Text("a", work=2.0)
    tasks = [Text("four", (a,), work=3.0), a, Text("x")]
    found = estimate(tasks, missing(tasks, store), {})
    assert (found.ram_bytes, found.disk_bytes, found.seconds) == (4, 30, None)
    assert [(step.name, step.detail, step.done) for step in found.steps] == [("text", "a, four, x", False)]
    assert estimate(tasks, missing(tasks, store), {"text": 10.0}).seconds == 50.0
    made(store, *tasks)
    assert store.rates()["text"] > 0
    done = estimate(tasks, missing(tasks, store), store.rates())
    assert (done.ram_bytes, done.disk_bytes, done.seconds, done.steps[0].done) == (0, 0, 0, True)


def _goals() -> list[Text]:
    """Words that build on each other, words of one pass, and words under one bell."""
    chain = [Text("0")]
    for number in range(1, 8):
        chain.append(Text(str(number), tuple(chain[-2:])))
    return [
        *chain,
        *(Text(f"swept {number}", (chain[number],), with_=Sweep("sweep")) for number in range(8)),
        *(Text(f"rung {number}", (chain[-1],), with_=Bell("bell")) for number in range(8)),
    ]


def _make_part(root: Path, part: int, together: Any) -> None:
    together.wait(30)
    goals = _goals()
    make(goals[part::2] + goals[-12:], Store(root), Silent())


def test_processes_that_want_the_same_make_it_once(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(3)
    processes = [context.Process(target=_make_part, args=(store.root, part % 2, together)) for part in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    words = [line for line in logged(store.root) if not line.startswith(("sweep:", "open", "close"))]
    assert sorted(words) == sorted(task.word for task in _goals())
    assert missing(_goals(), store) == []
    assert not list((store.root / "building").iterdir())
