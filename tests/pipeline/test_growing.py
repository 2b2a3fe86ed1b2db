"""A repository that grows: types are added to what is there, in the folder and on the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.cli import hubquant
from tests.support.localhub import LocalHub

SOURCE, TARGET = "org/tiny", "alice/tiny-GGUF"
SMALL = ["calibration.chunk_size=16", "calibration.chunks=2", "evaluate.chunk_size=16", "evaluate.chunks=1"]


@pytest.fixture
def source(hub: LocalHub, tiny_llama: Path) -> str:
    hub.add(SOURCE, {path.name: path.read_bytes() for path in tiny_llama.iterdir()})
    return SOURCE


def run(model: str | Path, out: Path, types: str, *more: str, to: str | None = None) -> str:
    """Settings are given as field=value."""
    settings = [part for setting in (*SMALL, *more) for part in ("--set", setting)]
    push = ["--push", to] if to else []
    outcome = hubquant("run", str(model), "--out", str(out), "--types", types, *push, *settings)
    assert outcome.code == 0, outcome.err
    return outcome.err


def rows(card: str) -> dict[str, str]:
    """The rows of the card's table by type, without those of earlier runs."""
    lines = [line for line in card.split("### Files of earlier runs")[0].splitlines() if line.startswith("| [")]
    return {line.split(" | ")[1]: line for line in lines}


def card_on(hub: LocalHub) -> str:
    return hub.content(TARGET, "README.md").decode()


def test_types_are_added_in_the_folder_and_on_the_hub(hub: LocalHub, source: str, tmp_path: Path) -> None:
    run(source, tmp_path / "a", "Q8_0", to="tiny-GGUF")
    first = card_on(hub)
    assert set(rows(first)) == {"Q8_0"}
    run(source, tmp_path / "a", "Q4_0")
    assert set(rows((tmp_path / "a" / "README.md").read_text())) == {"Q8_0", "Q4_0"}
    assert (tmp_path / "a" / "tiny-Q8_0.gguf").exists()

    run(source, tmp_path / "b", "Q5_0", to=TARGET)
    both = card_on(hub)
    assert set(rows(both)) == {"Q8_0", "Q5_0"}
    assert rows(both)["Q8_0"] == rows(first)["Q8_0"]
    assert set(yaml.safe_load(hub.content(TARGET, "recipe.yaml"))["quantize"]["types"]) == {"Q8_0", "Q5_0"}
    assert "hubquant run hub:alice/tiny-GGUF" in both

    planned = hubquant("publish", str(tmp_path / "a"), "--to", TARGET, "--dry-run", "--json")
    assert {"tiny-Q8_0.gguf", "tiny-Q4_0.gguf"} < set(json.loads(planned.out)["uploads"])
    assert hubquant("publish", str(tmp_path / "a"), "--to", TARGET).code == 0
    assert set(rows(card_on(hub))) == {"Q8_0", "Q5_0", "Q4_0"}
    assert "### Files of earlier runs" not in card_on(hub)
    head = hub.repository(TARGET).head
    assert hubquant("publish", str(tmp_path / "a"), "--to", TARGET).code == 0
    assert hub.repository(TARGET).head == head


def test_files_of_other_settings_are_named_as_such(hub: LocalHub, source: str, tmp_path: Path) -> None:
    out = tmp_path / "a"
    run(source, out, "Q8_0,Q4_0", "evaluate.skip=true", to=TARGET)
    changed = ("evaluate.skip=true", "calibration.chunks=3", "publish.shard_size=300KB")
    run(source, out, "Q4_0", *changed, to=TARGET)
    card = card_on(hub)
    assert card == (out / "README.md").read_text()
    assert set(rows(card)) == {"Q4_0"}
    earlier = card.split("### Files of earlier runs")[1]
    assert "tiny-Q8_0.gguf" in earlier
    assert "Q8_0: with another importance matrix" in earlier
    assert yaml.safe_load(hub.content(TARGET, "recipe.yaml"))["quantize"]["types"] == ["Q4_0"]
    for names in (hub.repository(TARGET).files, [p.relative_to(out).as_posix() for p in out.rglob("*.gguf")]):
        assert "tiny-Q8_0.gguf" in names
        assert "tiny-Q4_0.gguf" not in names
        assert any(name.startswith("Q4_0/") for name in names)

    run(source, out, "Q8_0", *changed, to=TARGET)
    assert set(rows(card_on(hub))) == {"Q4_0", "Q8_0"}
    assert "### Files of earlier runs" not in card_on(hub)


def test_a_repository_of_somebody_else_is_not_published_over(hub: LocalHub, source: str, tmp_path: Path) -> None:
    hub.add(TARGET, {"README.md": b"---\nlicense: mit\n---\n# All my own work\n", "tiny-Q4_0.gguf": b"GGUF"})
    for command in ("plan", "run"):
        refused = hubquant(command, source, "--out", str(tmp_path / "a"), "--push", TARGET)
        assert refused.code == 2, refused.err
        assert "hubquant did not write" in refused.err
    assert not (tmp_path / "a").exists()
    hub.add(TARGET, {"README.md": b"---\nlicense: mit\n---\n"})
    run(source, tmp_path / "a", "Q8_0", "imatrix.skip=true", "evaluate.skip=true", to=TARGET)
    assert "This card does not tell of: tiny-Q4_0.gguf." in card_on(hub)
    assert hub.content(TARGET, "tiny-Q4_0.gguf") == b"GGUF"

    hub.add(TARGET, {"README.md": card_on(hub).encode() + b"\nIn my own words.\n"})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    outcome = hubquant("publish", str(tmp_path / "b"), "--to", TARGET)
    assert outcome.code == 0, outcome.err
    assert "was edited there; the edit stays in its history" in outcome.err
