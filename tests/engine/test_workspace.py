"""Artifacts: whole or not there, addressed by what made them."""

import multiprocessing
import os
from pathlib import Path

import pytest

from hubquant.engine.workspace import Artifact, Workspace
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
