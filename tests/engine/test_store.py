"""Artifacts: whole or not there, addressed by what made them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubquant.engine.local import make as make_tasks
from hubquant.engine.progress import Silent
from hubquant.engine.store import RECORD, TAG, Store
from hubquant.errors import OutputError
from tests.support.tasks import Text

A, B = Text("a"), Text("b")


def nobody(task: Any) -> None:
    raise AssertionError(task)


def make(store: Store, task: Text) -> Path:
    (store.open_building(task) / "data").write_text("whole")
    return store.complete(task)


def test_an_artifact_exists_only_when_complete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.open_building(A) / "data").write_text("half")
    assert not store.has(A)
    assert (store.open_building(A) / "data").read_text() == "half"
    finished = store.complete(A)
    assert store.has(A)
    assert (finished / "data").read_text() == "half"


def test_other_ingredients_are_another_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, Text("a", (B,)))
    assert not store.has(A)
    assert not store.has(Text("a", (Text("c"),)))
    assert store.has(Text("a", (Text("b"),)))


def test_a_store_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(OutputError, match="cannot be the store"):
        Store(tmp_path / "store")


def test_somebody_else_s_folder_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a store of hubquant"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_tells_backup_programs_what_it_is(tmp_path: Path) -> None:
    with Store(tmp_path / "store").using([]):
        pass
    assert (tmp_path / "store" / TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    Store(tmp_path / "store")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "another byte": lambda folder: (folder / "data").write_text("Whole"),
    "cut": lambda folder: (folder / "data").write_text("who"),
    "empty": lambda folder: (folder / "data").write_text(""),
    "missing": lambda folder: (folder / "data").unlink(),
    "a folder": lambda folder: ((folder / "data").unlink(), (folder / "data").mkdir()),
    "an empty record": lambda folder: (folder / RECORD).write_text(""),
    "a record cut": lambda folder: (folder / RECORD).write_text((folder / RECORD).read_text()[:-9]),
    "a record that is not UTF-8": lambda folder: (folder / RECORD).write_bytes(b"\xff"),
    "a record of another type": lambda folder: (folder / RECORD).write_text("7"),
    "a record of something else": lambda folder: (folder / RECORD).write_text(
        (folder / RECORD).read_text().replace(A.key, B.key)
    ),
    "no record": lambda folder: (folder / RECORD).unlink(),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_can_be_made_good(kind: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = make(store, A)
    assert store.damage(A) is None
    DAMAGES[kind](folder)
    assert store.damage(A)
    store.forget(A)
    assert not store.is_there(A)
    make(store, A)
    assert store.damage(A) is None


def test_a_file_where_something_is_to_be_built_is_in_nobodys_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.open_building(A).rmdir()
    store.building_path(A).write_text("")
    assert store.open_building(A).is_dir()


def test_what_is_old_or_too_much_is_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tasks = [Text(word) for word in "abcd"]
    for age, task in enumerate(tasks):
        make(store, task)
        os.utime(store.path(task), (1e9 - age, 1e9 - age))
    assert [each.path for each in store.kept()] == [store.path(task) for task in tasks]
    assert store.prune(1e10, None) == []
    assert [each.path for each in store.prune(None, 12, dry_run=True)] == [store.path(task) for task in tasks[2:]]
    assert all(map(store.has, tasks))
    with store.using([tasks[3]]):  # which makes it the one that was used last
        assert [each.path for each in store.prune(None, 12)] == [store.path(task) for task in tasks[1:3]]
        assert [each.path for each in store.prune(0, None)] == [store.path(tasks[0])]
    assert [each.path for each in store.prune(0, None)] == [store.path(tasks[3])]
    assert store.kept() == []


def test_what_a_killed_run_left_half_built_is_pruned_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.open_building(A) / "data").write_text("half")
    [left] = store.kept()
    assert (left.kind, left.size) == ("half built", 4)
    assert store.prune(0, None) == [left]
    assert not store.building_path(A).exists()


def test_what_a_killed_process_was_writing_is_cleared_by_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.using([]):
        pass
    left = [tmp_path / ".rates.json.writing", tmp_path / "running" / ".1-abc.json.writing"]
    for path in left:
        path.write_text("half")
    with store.using([]):
        assert not [path for path in left if path.exists()]


def test_rates_are_blended_and_a_broken_table_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.learn({"x": 2.0})
    store.learn({"x": 4.0, "y": 1.0})
    assert store.rates() == {"x": 3.0, "y": 1.0}
    (tmp_path / "rates.json").write_text('{"x": "fast"}')
    assert store.rates() == {}


def _use(root: Path, held: Any, leave: Any) -> None:
    with Store(root).using([A]):
        held.set()
        leave.wait(30)


def test_what_another_process_works_with_is_not_made_anew(tmp_path: Path) -> None:
    store, context = Store(tmp_path), multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_use, args=(tmp_path, held, leave))
    for task in (A, B):
        make(store, task)
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(OutputError, match="the a text cannot be made anew"):
            make_tasks([A, B], store, Silent(), fresh=True)
        assert store.has(A)
        assert store.has(B)
        assert make_tasks([B], store, Silent(), fresh=True) == [B]
    finally:
        leave.set()
        process.join(30)
    assert make_tasks([A, B], store, Silent(), fresh=True) == [A, B]


def _begin(root: Path, together: Any, failed: Any) -> None:
    together.wait(30)
    try:
        with Store(root).using([A]):
            for number in range(50):
                Store(root).learn({str(os.getpid()): 1.0, "x": 1.0 + number})
                Store(root).kept()
    except BaseException:
        failed.set()
        raise


def test_processes_begin_a_store_and_write_into_it_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, failed = context.Barrier(3), context.Event()
    processes = [context.Process(target=_begin, args=(tmp_path / "store", together, failed)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert not failed.is_set()
    assert set(Store(tmp_path / "store").rates()) == {"x", *(str(process.pid) for process in processes)}
    assert [path.name for path in (tmp_path / "store" / "running").iterdir()] == []


def test_a_tag_that_a_kill_cut_is_made_whole(tmp_path: Path) -> None:
    (tmp_path / TAG).write_text("Sig")
    with Store(tmp_path).using([]):
        pass
    assert (tmp_path / TAG).read_text().endswith("hubquant store --help`.\n")


def test_scratch_is_gone_afterwards_and_pruned_after_a_kill(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.using([A]), store.scratch(A) as folder:
        (folder / "weights").write_text("some")
        copy = shutil.copytree(folder, folder.with_name(f"scratch-killed-{A.key[:24]}"))
        assert store.prune(0, None) == []
    assert not folder.exists()
    assert [each.path for each in store.prune(0, None)] == [copy]


def _hold(root: Path, held: Any, leave: Any) -> None:
    with Store(root).using([A]), Store(root).locked([A], nobody):
        held.set()
        leave.wait(30)


@pytest.mark.parametrize("killed", [False, True])
def test_a_lock_is_waited_for_until_its_process_ends(killed: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, leave))
    process.start()
    store, waited = Store(tmp_path), []

    def end(task: object) -> None:
        waited.append(task)
        process.kill() if killed else leave.set()

    try:
        assert held.wait(30)
        make(store, A)
        assert store.prune(0, None) == []
        with store.locked([B], nobody):
            pass
        with store.locked([A, B], end):
            assert waited == [A]
    finally:
        process.kill() if killed else leave.set()
        process.join(30)
    assert [each.path for each in store.prune(0, None)] == [store.path(A)]
