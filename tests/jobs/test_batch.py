"""Many models in one process, from the local Hub to the local Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubquant.signals import Stopped
from tests.support.cli import Outcome, hubquant
from tests.support.localhub import LocalHub

SMALL = ("--set", "imatrix.skip=true", "--set", "evaluate.skip=true", "--types", "Q8_0")
PUSH = ("--push", "alice/{model}-GGUF")
Call = Callable[..., Outcome]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    def batch(*words: str, command: str = "batch") -> Outcome:
        return hubquant(command, *words, *SMALL, "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"))

    return batch


@pytest.fixture
def models(hub: LocalHub, tiny_llama: Path) -> LocalHub:
    for name in ("one", "two"):
        hub.add(f"org/{name}", tiny_llama)
    return hub


def listed(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "models.txt").write_text("\n".join(lines))
    return str(tmp_path / "models.txt")


def statuses(outcome: Outcome) -> dict[str, Any]:
    return {each["model"]: each["status"] for each in json.loads(outcome.out)["models"]}


def commits(hub: LocalHub) -> dict[str, int]:
    mine = {id: each for (_, id), each in hub.repositories.items() if id.startswith("alice/")}
    return {id: len(list(each.history("main"))) for id, each in mine.items()}


def test_a_failure_is_one_model_s_and_the_same_line_tries_it_again(
    models: LocalHub, call: Call, tmp_path: Path
) -> None:
    file = listed(tmp_path, "org/one", "org/none", "org/two alice/second")
    outcome = call(file, *PUSH, "--json", "--add-to-collection", "Mine")
    assert outcome.code == 1
    assert statuses(outcome) == {"org/one": "done", "org/none": "failed", "org/two": "done"}
    [error] = [each["error"] for each in json.loads(outcome.out)["models"] if each["error"]]
    assert "there is no repository org/none" in error
    assert commits(models) == {"alice/one-GGUF": 2, "alice/second": 2}
    [collection] = models.collections.values()
    assert [item["id"] for item in collection["items"]] == ["alice/one-GGUF", "alice/second"]

    again = call(file, *PUSH, "--json")
    assert statuses(again) == {"org/one": "done before", "org/none": "failed", "org/two": "done before"}
    assert commits(models) == {"alice/one-GGUF": 2, "alice/second": 2}


def test_a_new_commit_is_made_and_the_rest_is_not_touched(models: LocalHub, call: Call, tmp_path: Path) -> None:
    file = listed(tmp_path, "org/one", "org/two")
    assert call(file, *PUSH).code == 0
    models.add("org/two", {"README.md": b"---\nlicense: mit\n---\n# New\n"})
    before = len(models.log)
    assert statuses(call(file, *PUSH, "--json")) == {"org/one": "done before", "org/two": "done"}
    assert commits(models) == {"alice/one-GGUF": 2, "alice/two-GGUF": 3}
    assert not [entry for entry in models.log[before:] if "one-GGUF" in entry.path]
    assert b"license: mit" in models.content("alice/two-GGUF", "README.md")


def test_a_dry_run_writes_nothing(models: LocalHub, call: Call, tmp_path: Path) -> None:
    file = listed(tmp_path, "org/one", "org/none", str(tmp_path / "nowhere"))
    outcome = call(file, *PUSH, "--dry-run")
    assert outcome.code == 1
    assert "1 planned, 2 failed" in outcome.out
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "state").exists()
    assert commits(models) == {}


def test_an_account_and_a_collection_name_models(models: LocalHub, call: Call) -> None:
    models.add("org/one-GGUF", {"README.md": b"---\ntags: [gguf]\n---\n", "a.safetensors": b"x"})
    models.add("org/data", {"README.md": b"# no weights"})
    assert statuses(call("--author", "org", *PUSH, "--dry-run", "--json")).keys() == {"org/one", "org/two"}
    assert statuses(call("--search", "tw", *PUSH, "--dry-run", "--json")).keys() == {"org/two"}
    assert len(statuses(call("--author", "org", "--limit", "1", "--dry-run", "--json"))) == 1
    models.collections["org/c-0123456789abcdef01234567"] = {
        "slug": "org/c-0123456789abcdef01234567",
        "title": "c",
        "owner": "org",
        "lastUpdated": "2026-01-01T00:00:00Z",
        "position": 0,
        "private": False,
        "theme": "blue",
        "upvotes": 0,
        "items": [{"_id": "0", "id": "org/two", "type": "model", "position": 0}],
    }
    found = call("--collection", "org/c-0123456789abcdef01234567", "--dry-run", "--json")
    assert statuses(found) == {"org/two": "planned"}


@pytest.mark.parametrize("words", [(), ("{file}", "--author", "org"), ("{file}", "--add-to-collection", "Mine")])
def test_contradictions(call: Call, tmp_path: Path, words: tuple[str, ...]) -> None:
    outcome = call(*(word.format(file=listed(tmp_path, "org/one")) for word in words))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err


def test_a_recipe_that_names_one_repository_is_refused(call: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "ladder.yaml"
    recipe.write_text("publish: {to: alice/all}")
    outcome = call(listed(tmp_path, "org/one"), "--recipe", str(recipe))
    assert outcome.code == 2
    assert "every model would be published to alice/all" in outcome.err


def test_watching_plans_first_and_publishes_once(models: LocalHub, call: Call, tiny_llama: Path) -> None:
    assert statuses(call("org", *PUSH, "--json", command="watch")) == {"org/one": "planned", "org/two": "planned"}
    assert commits(models) == {}
    models.add("org/broken", {"config.json": b"{}", "model.safetensors": b"x"})
    line = ("org", *PUSH, "--go", "--once", "--json")
    first = call(*line, command="watch")
    assert first.code == 1
    assert statuses(first) == {"org/one": "done", "org/two": "done", "org/broken": "failed"}
    models.add("org/three", tiny_llama)
    before = len(models.log)
    second = call(*line, command="watch")
    assert second.code == 0
    assert statuses(second) == {
        "org/one": "done before",
        "org/two": "done before",
        "org/three": "done",
        "org/broken": "failed before",
    }
    assert not [entry for entry in models.log[before:] if "broken/resolve" in entry.path]  # it is as it was
    assert commits(models) == {f"alice/{name}-GGUF": 2 for name in ("one", "two", "three")}


def test_what_is_there_may_be_left_alone(models: LocalHub, call: Call) -> None:
    line = ("org", *PUSH, "--go", "--once", "--from-now", "--json")
    assert set(statuses(call(*line, command="watch")).values()) == {"left alone"}
    models.add("org/two", {"README.md": b"---\nlicense: mit\n---\n"})
    assert statuses(call(*line, command="watch")) == {"org/one": "left alone", "org/two": "done"}
    assert commits(models) == {"alice/two-GGUF": 2}


def test_a_watch_goes_on_and_tells_of_what_is_new(
    models: LocalHub, call: Call, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        match len(waits):
            case 1:
                models.add("org/three", tiny_llama)
            case 2:
                models.fail("GET /api/models$", 200, message="closed for repairs")
            case 4:
                raise Stopped(2)

    monkeypatch.setattr("hubquant.cli.batch.sleep", wait)
    outcome = call("org", *PUSH, "--go", "--every", "30m", "--json", command="watch")
    assert outcome.code == 130
    assert waits == [1800] * 4
    rounds = [json.loads(line)["models"] for line in outcome.out.splitlines()]
    assert [sorted(each["model"] for each in round) for round in rounds] == [["org/one", "org/two"], ["org/three"]]
    assert "does not answer as a Hugging Face Hub does" in outcome.err


def test_files_of_a_size(tiny_llama: Path, call: Call, tmp_path: Path) -> None:
    few = ("--set", "calibration.chunk_size=64", "--set", "calibration.chunks=2")
    file = listed(tmp_path, str(tiny_llama))
    first, again = (call(file, "--types", "5bpw", *few, "--json") for _ in range(2))
    [made], [found] = (json.loads(each.out)["models"] for each in (first, again))
    assert (made["status"], found["status"]) == ("done", "done before")
    assert made["files"].keys() == {"tiny-llama-max-5bpw-Q4_K_M.gguf", "tiny-llama-Q8_0.gguf"}
