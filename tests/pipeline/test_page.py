"""The page of a repository: types are added to what is there, and nothing is shown of the machine it was made on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from hubquant.calibration.bundled import bundled_path
from hubquant.imatrix import load_imatrix, save
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


def test_a_card_tells_how_the_model_is_run(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "model")
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.7, "top_k": 20}')
    run(tmp_path / "model", tmp_path / "a", "Q8_0", "imatrix.skip=true", "evaluate.skip=true")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "```text\n<system>{system_prompt}<user>{prompt}A:\n```" in card
    assert "recommend temperature 0.7, top k 20." in card
    assert "The model takes up to 512 tokens of context (`-c 512`)." in card
    assert "| 1 GB | [model-Q8_0.gguf](./model-Q8_0.gguf) | Q8_0 |" in card


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


def test_another_model_in_the_same_folder_takes_nothing_away(tiny_llama: Path, tmp_path: Path) -> None:
    quick = ("imatrix.skip=true", "evaluate.skip=true")
    shutil.copytree(tiny_llama, tmp_path / "other")
    (tmp_path / "other" / "README.md").write_text("---\nlicense: mit\n---\n")
    run(tiny_llama, tmp_path / "out", "Q8_0", *quick)
    run(tmp_path / "other", tmp_path / "out", "Q8_0", *quick)
    assert {path.name for path in (tmp_path / "out").glob("*.gguf")} == {"tiny-llama-Q8_0.gguf", "other-Q8_0.gguf"}
    current, earlier = (tmp_path / "out" / "README.md").read_text().split("### Files of earlier runs")
    assert "other-Q8_0.gguf" in current
    assert "tiny-llama-Q8_0.gguf" in earlier
    assert "of another model" in earlier


def test_what_is_published_of_a_local_model_shows_no_path(
    hub: LocalHub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    model = private / "my-llama"
    shutil.copytree(tiny_llama, model)
    card = "---\nlicense: apache-2.0\nbase_model: [org/base, /home/me/base, ./base]\ndatasets: [/home/me/texts]\n---\n"
    (model / "README.md").write_text(card)
    (private / "held-out.txt").write_text(bundled_path("test").read_text()[:20_000])
    matrix = private / "secret.gguf"
    assert (
        hubquant("imatrix", "collect", str(model), "-o", str(matrix), "--chunks", "1", "--chunk-size", "16").code == 0
    )
    save(dataclasses.replace(load_imatrix(matrix), datasets=(str(private / "diary.txt"),)), matrix)
    settings = (f"imatrix.file={matrix}", f"evaluate.sources=[{{file: {private / 'held-out.txt'}}}]")
    run(model, private / "out", "Q8_0", *settings, to=TARGET)

    published = {name: hub.content(TARGET, name) for name in hub.repository(TARGET).files}
    for name, content in published.items():
        for secret in (str(tmp_path), "/home/me", "/private"):
            assert secret.encode() not in content, name
    text = published["README.md"].decode()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["base_model"], front["base_model_relation"]) == ("org/base", "quantized")
    assert "(my-llama, held-out.txt):" in text
    assert "hubquant run recipe.yaml" in text
    assert f"hubquant run hub:{TARGET}" not in text

    assert hubquant("plan", f"hub:{TARGET}").code == 2
    monkeypatch.chdir(private)
    (private / "recipe.yaml").write_bytes(published["recipe.yaml"])
    planned = hubquant("plan", "recipe.yaml", "--out", "again", "--json")
    assert planned.code == 0, planned.err
    assert json.loads(planned.out)["files"][0]["size"] == len(published["my-llama-Q8_0.gguf"])


def test_the_base_model_of_a_local_model(hub: LocalHub, tiny_llama: Path, source: str, tmp_path: Path) -> None:
    quick = ("imatrix.skip=true", "evaluate.skip=true")
    run(tiny_llama, tmp_path / "a", "Q8_0", *quick, "publish.base_model=org/mine")
    assert "base_model: org/mine\n" in (tmp_path / "a" / "README.md").read_text()
    assert hubquant("convert", source, "-o", str(tmp_path / "tiny-F16.gguf"), "--type", "F16").code == 0
    run(tmp_path / "tiny-F16.gguf", tmp_path / "b", "Q8_0", *quick)
    card = (tmp_path / "b" / "README.md").read_text()
    assert f"base_model: {SOURCE}\n" in card
    assert str(tmp_path) not in card
    assert "It needs what is not here: tiny-F16.gguf." in card
    assert yaml.safe_load((tmp_path / "b" / "recipe.yaml").read_text())["model"] == {
        "file": f"{tmp_path}/tiny-F16.gguf"
    }
    assert hubquant("publish", str(tmp_path / "b"), "--to", TARGET).code == 0
    assert yaml.safe_load(hub.content(TARGET, "recipe.yaml"))["model"] == {"file": "tiny-F16.gguf"}
    assert "(tiny-F16.gguf):" in card_on(hub)
