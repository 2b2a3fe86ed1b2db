"""Artifacts: whole or not there, addressed by what made them."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hubquant.engine.store import RECORD, Artifact, Workspace
from hubquant.errors import OutputError


def test_an_artifact_exists_only_when_complete(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    artifact = Artifact("imatrix", {"model": "a@1"})
    folder = workspace.open_building(artifact)
    (folder / "data").write_text("half")
    assert not workspace.has(artifact)
    assert (workspace.open_building(artifact) / "data").read_text() == "half"
    finished = workspace.complete(artifact)
    assert workspace.has(artifact)
    assert (finished / "data").read_text() == "half"


def test_other_ingredients_are_another_artifact(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.open_building(Artifact("imatrix", {"model": "a@1"}))
    workspace.complete(Artifact("imatrix", {"model": "a@1"}))
    assert not workspace.has(Artifact("imatrix", {"model": "a@2"}))
    assert not workspace.has(Artifact("baseline", {"model": "a@1"}))
    assert workspace.has(Artifact("imatrix", {"model": "a@1"}))


def test_placed_files_are_links_and_replace_what_was_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.open_building(Artifact("x", {}))
    source, target = tmp_path / "a", tmp_path / "out" / "b"
    source.write_text("new")
    workspace.write(target, b"old")
    workspace.place(source, target)
    assert target.read_text() == "new"
    assert os.stat(target).st_ino == os.stat(source).st_ino
    assert [p.name for p in target.parent.iterdir()] == ["b"]


def test_a_folder_that_is_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        Workspace(tmp_path / "out").open_building(Artifact("x", {}))


def _artifact(root: Path) -> tuple[Workspace, Artifact, Path]:
    workspace, artifact = Workspace(root), Artifact("imatrix", {"model": "a@1"})
    (workspace.open_building(artifact) / "data").write_text("whole")
    return workspace, artifact, workspace.complete(artifact)


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
    "a record of something else": lambda folder: (folder / RECORD).write_text('{"model": "a@2"}'),
    "no record": lambda folder: (folder / RECORD).unlink(),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_can_be_made_good(kind: str, tmp_path: Path) -> None:
    workspace, artifact, folder = _artifact(tmp_path)
    assert workspace.damage(artifact) is None
    DAMAGES[kind](folder)
    assert workspace.damage(artifact)
    workspace.forget(artifact)
    assert not workspace.is_there(artifact)
    (workspace.open_building(artifact) / "data").write_text("whole")
    workspace.complete(artifact)
    assert workspace.damage(artifact) is None


def test_what_has_no_checksums_is_told_apart(tmp_path: Path) -> None:
    workspace, artifact, folder = _artifact(tmp_path)
    (folder / RECORD).write_text(json.dumps(artifact.made_from))
    assert workspace.has(artifact)
    assert not workspace.is_recorded(artifact)
    workspace.record(artifact)
    assert workspace.is_recorded(artifact)


def test_a_file_where_something_is_to_be_built_is_in_nobodys_way(tmp_path: Path) -> None:
    workspace, artifact = Workspace(tmp_path), Artifact("x", {})
    workspace.building_path(artifact).parent.mkdir(parents=True)
    workspace.building_path(artifact).write_text("")
    assert workspace.open_building(artifact).is_dir()


def _hold(root: Path, held: "multiprocessing.synchronize.Event", leave: "multiprocessing.synchronize.Event") -> None:
    with Workspace(root).locked():
        held.set()
        leave.wait(30)


def test_two_processes_do_not_share_a_workspace(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, leave))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(OutputError, match="in use"), Workspace(tmp_path).locked():
            pass
    finally:
        leave.set()
        process.join(30)
    with Workspace(tmp_path).locked():
        pass


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, leave))
    process.start()
    assert held.wait(30)
    process.kill()
    process.join(30)
    with Workspace(tmp_path).locked():
        pass
