"""A repository on the Hub that several machines add to, each with a store and an output folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hubquant.recipe import parse_recipe
from tests.support.cli import Outcome, hubquant
from tests.support.localhub import LocalHub

SOURCE, TARGET = "org/tiny", "alice/tiny-GGUF"
SMALL = ["imatrix.skip=true", "evaluate.chunk_size=64", "evaluate.chunks=2"]


@pytest.fixture
def source(hub: LocalHub, tiny_llama: Path) -> str:
    hub.add(SOURCE, tiny_llama)
    return SOURCE


def machine(folder: Path, types: str, *more: str) -> Outcome:
    outcome = hubquant(
        *("run", SOURCE, "--types", types, "--push", TARGET, "--out", str(folder / "out")),
        *("--store", str(folder / "store"), *(word for setting in SMALL for word in ("--set", setting)), *more),
    )
    assert outcome.code == 0, outcome.err
    return outcome


def models(hub: LocalHub) -> set[str]:
    return {name for name in hub.repository(TARGET).files if name.endswith(".gguf")}


@pytest.mark.usefixtures("source")
def test_another_machine_adds_a_type_and_only_prune_removes_one(hub: LocalHub, tmp_path: Path) -> None:
    machine(tmp_path / "a", "Q8_0")
    first = hub.content(TARGET, "tiny-Q8_0.gguf")
    machine(tmp_path / "b", "Q4_0")
    assert models(hub) == {"tiny-Q8_0.gguf", "tiny-Q4_0.gguf"}
    assert hub.content(TARGET, "tiny-Q8_0.gguf") == first
    measured = json.loads(hub.content(TARGET, "measurements.json"))["files"]
    assert {file["type"] for file in measured} == {"Q8_0", "Q4_0"}
    assert all(file["divergence"] for file in measured)
    card = hub.content(TARGET, "README.md").decode()
    assert "tiny-Q8_0.gguf" in card
    assert "tiny-Q4_0.gguf" in card

    machine(tmp_path / "b", "Q5_0")
    assert models(hub) == {"tiny-Q8_0.gguf", "tiny-Q4_0.gguf", "tiny-Q5_0.gguf"}

    planned = json.loads(machine(tmp_path / "b", "Q5_0", "--prune", "--dry-run", "--json").out)
    assert f"to be removed from {TARGET}: tiny-Q4_0.gguf, tiny-Q8_0.gguf" in planned["notes"]
    assert len(models(hub)) == 3
    outcome = machine(tmp_path / "b", "Q5_0", "--prune")
    assert models(hub) == {"tiny-Q5_0.gguf"}
    assert "removed from alice/tiny-GGUF: tiny-Q4_0.gguf, tiny-Q8_0.gguf" in outcome.err
    assert "Q8_0" not in hub.content(TARGET, "README.md").decode()
    assert {path.name for path in (tmp_path / "b" / "out").glob("*.gguf")} == {"tiny-Q5_0.gguf"}


@pytest.mark.usefixtures("source")
def test_prune_leaves_what_hubquant_did_not_make(hub: LocalHub, tmp_path: Path) -> None:
    machine(tmp_path / "a", "Q8_0,Q4_0")
    hub.add(TARGET, {"mine-Q8_0.gguf": b"GGUF of mine", "tiny-Q4_0.gguf": b"GGUF put there by hand"})
    machine(tmp_path / "b", "Q5_0", "--prune")
    assert models(hub) == {"tiny-Q5_0.gguf", "mine-Q8_0.gguf", "tiny-Q4_0.gguf"}


@pytest.mark.usefixtures("source")
def test_a_changed_model_is_shown_before_its_files_are_replaced(hub: LocalHub, tmp_path: Path) -> None:
    before = hub.repository(SOURCE).head
    machine(tmp_path / "a", "Q8_0")
    hub.add(SOURCE, {"README.md": b"---\nlicense: mit\n---\n"})
    line = ["plan", SOURCE, "--types", "Q8_0", "--push", TARGET, "--json"]
    plan = json.loads(hubquant(*line, "--set", "imatrix.skip=true", "--set", "evaluate.skip=true").out)
    assert (
        f"the files of {TARGET} were made of {SOURCE} at {before}; it is at {hub.repository(SOURCE).head} now"
        in plan["notes"]
    )


@pytest.mark.usefixtures("source")
def test_a_pull_request_has_the_whole_page(hub: LocalHub, tmp_path: Path) -> None:
    machine(tmp_path / "a", "Q8_0")
    head = hub.repository(TARGET).head
    for types in ("Q4_0", "Q5_0"):
        machine(tmp_path / types, types, "--create-pr", "--commit-message", "More types")
    repository = hub.repository(TARGET)
    assert repository.head == head
    assert [(each["title"], each["status"]) for each in repository.discussions] == [("More types", "open")]
    commit = repository.commits[repository.branches["refs/pr/1"]]
    assert commit.title == "More types"
    assert {"tiny-Q8_0.gguf", "tiny-Q4_0.gguf", "tiny-Q5_0.gguf"} <= commit.tree.keys()
    card = hub.blobs.read(commit.tree["README.md"]).decode()
    assert all(f"tiny-{type}.gguf" in card for type in ("Q8_0", "Q4_0", "Q5_0"))


@pytest.mark.parametrize("name", ["bad branch", "refs/pr/1", "-x", "a..b", "a/", ".hidden", "x.lock", "a~1"])
def test_what_no_branch_can_be_called_is_known_before_any_work(tmp_path: Path, name: str) -> None:
    outcome = hubquant("plan", "demo", "--push", TARGET, f"--set=publish.branch={name}", "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert f"no branch can be called {name!r}" in outcome.err
    assert parse_recipe({"model": "demo/x", "publish": {"branch": "dev/v1.0-rc_2"}}).publish.branch == "dev/v1.0-rc_2"


def test_a_branch_and_a_pull_request_contradict_each_other(tmp_path: Path) -> None:
    outcome = hubquant("run", str(tmp_path), "--push", TARGET, "--create-pr", "--branch", "v2")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
