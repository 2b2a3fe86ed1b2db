"""Calibration and evaluation text from datasets on the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hubquant.calibration.bundled import bundled_path
from hubquant.hub.eval_results import benchmark_tasks
from hubquant.imatrix import load_imatrix
from tests.support.cli import hubquant
from tests.support.localhub import LocalHub
from tests.support.plugins import write_plugin

FEW = ["--chunks", "4", "--chunk-size", "64"]


@pytest.fixture
def texts(hub: LocalHub) -> str:
    paragraphs = bundled_path("test").read_text("utf-8").split("\n\n")[:60]
    rows = "\n".join(json.dumps({"text": paragraph}) for paragraph in paragraphs)
    hub.add("org/text", {"train.jsonl": rows.encode(), "test.jsonl": rows.encode()}, kind="dataset")
    return "org/text"


def test_an_imatrix_from_a_hub_dataset(texts: str, tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    outcome = hubquant("imatrix", "collect", str(tiny_llama), "-f", texts, "-o", str(path), *FEW)
    assert outcome.code == 0, outcome.err
    matrix = load_imatrix(path)
    assert matrix.datasets == ("org/text",)
    assert matrix.chunk_count == 4


def test_evaluation_on_what_was_calibrated_on_is_noted(texts: str, tiny_llama: Path, tmp_path: Path) -> None:
    sources = [f"{part}.sources=[{{dataset: {texts}}}]" for part in ("calibration", "evaluate")]
    settings = [part for source in sources for part in ("--set", source)]
    outcome = hubquant("plan", str(tiny_llama), "--out", str(tmp_path / "out"), "--types", "Q8_0", "--json", *settings)
    assert outcome.code == 0, outcome.err
    assert "100%" in json.loads(outcome.out)["notes"][0]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{dataset: org/nothing}", "org/nothing"),
        ("{dataset: org/text, split: validation}", "validation"),
        ("{dataset: org/text, field: body}", "body"),
    ],
)
@pytest.mark.usefixtures("texts")
def test_datasets_that_are_not_as_named(source: str, named: str, tiny_llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = hubquant("run", str(tiny_llama), "--out", str(out), "--set", f"calibration.sources=[{source}]")
    assert outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    assert named in outcome.err
    assert not out.exists()


def test_the_hub_gets_results_for_tasks_of_a_benchmark(
    hub: LocalHub, texts: str, tiny_llama: Path, tmp_path: Path
) -> None:
    hub.add(texts, {"eval.yaml": b"name: x\ntasks: [{id: perplexity}, {id: other}]\n"}, kind="dataset")
    settings = ("imatrix.skip=true", f"evaluate={{sources: [{{dataset: {texts}}}], chunks: 2, chunk_size: 64}}")
    more = [part for setting in settings for part in ("--set", setting)]
    outcome = hubquant("run", str(tiny_llama), "--out", str(tmp_path / "out"), "--types", "Q8_0", *more)
    assert outcome.code == 0, outcome.err
    written = list((tmp_path / "out").glob(".eval_results/*.yaml"))
    entries = [entry for path in written for entry in yaml.safe_load(path.read_text())]
    assert [entry["dataset"]["task_id"] for entry in entries] == ["perplexity"]
    assert "model-index:" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("benchmark", "tasks"),
    [
        (None, set()),
        (b"name: x\ntasks: [{id: perplexity}, {id: other}]\n", {"perplexity", "other"}),
        (b"tasks: 3\n", set()),
        (b"tasks: [3, {}, {id: [x]}, {id: y}]\n", {"y"}),
        (b"[", set()),
        (b"\xff", set()),
        (b"x: " + b"y" * (1 << 20), set()),
    ],
)
def test_the_tasks_of_a_benchmark(hub: LocalHub, texts: str, benchmark: bytes | None, tasks: set[str]) -> None:
    if benchmark:
        hub.add(texts, {"eval.yaml": benchmark}, kind="dataset")
    assert benchmark_tasks(texts) == tasks
    assert benchmark_tasks("org/nothing") == set()


def of_plugin(path: Path, name: str) -> list[str]:
    text = f"{{plugin: '{path}:{name}', langs: [en, de], samples: 20}}"
    return ["--set", f"calibration.sources=[{text}]", "--set", "calibration.chunk_size=64"]


def test_a_model_is_calibrated_on_what_a_plugin_gives(tiny_llama: Path, tmp_path: Path) -> None:
    path, out = write_plugin(tmp_path), tmp_path / "out"
    settings = [*of_plugin(path, "DiarySource"), "--no-eval", "--out", str(out), "--types", "Q8_0", "--json"]
    outcome = hubquant("run", str(tiny_llama), "--set", "calibration.chunks=4", *settings)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("\n") == 1
    assert all("event" in json.loads(line) for line in outcome.err.splitlines())
    assert load_imatrix(out / "imatrix.gguf").datasets == ("diary.py:DiarySource",)
    assert yaml.safe_load((out / "recipe.yaml").read_text())["calibration"]["sources"][0]["plugin"].startswith("/")


def test_a_published_recipe_shows_the_name_of_a_plugin(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    settings = of_plugin(write_plugin(tmp_path), "DiarySource")
    line = ["run", str(tiny_llama), "--set", "calibration.chunks=2", *settings, "--no-eval", "--types", "Q8_0"]
    outcome = hubquant(*line, "--out", str(tmp_path / "out"), "--push", "alice/tiny-GGUF")
    assert outcome.code == 0, outcome.err
    files = {name: hub.content("alice/tiny-GGUF", name) for name in ("recipe.yaml", "README.md")}
    assert yaml.safe_load(files["recipe.yaml"])["calibration"]["sources"][0]["plugin"] == "diary.py:DiarySource"
    assert "diary.py" in files["README.md"].decode()
    assert str(tmp_path) not in files["README.md"].decode()
    again = hubquant("run", "hub:alice/tiny-GGUF", "--out", str(tmp_path / "again"))
    assert again.code == 2
    assert again.is_one_message()
    assert "plugin diary.py:DiarySource" in again.err


def test_a_plugin_that_fails_is_one_message(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_plugin(tmp_path, "class Source:\n    def load_data(self, lang, **more):\n        print(1 / 0)\n")
    outcome = hubquant("plan", str(tiny_llama), *of_plugin(path, "Source"), "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert f"{path}, line 3: ZeroDivisionError" in outcome.err
