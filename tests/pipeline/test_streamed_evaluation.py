"""A recipe whose files are measured without a whole model in memory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from hubquant import plan as make_plan
from hubquant.engine.progress import Silent
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.evaluate import Baseline
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.offload import choose_offload, choose_way
from hubquant.recipe.schema import Imatrix, ModelReference
from hubquant.sources.open import open_component
from tests.support.choices import write_hellaswag
from tests.support.cli import hubquant

STREAMED = ("--set", "evaluate.way=streamed", "--set", "imatrix.offload=stream")


def divergences(text: str) -> dict[str, Any]:
    return {each["type"]: each["divergence"] for each in json.loads(text)["files"]}


@pytest.fixture(scope="module")
def file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    assert hubquant("convert", str(tiny_llama), "-o", str(path), "-t", "F32").code == 0
    return path


@pytest.mark.parametrize("source", ["a checkpoint", "a file"])
def test_both_ways_give_the_same(
    source: str, tiny_llama: Path, file: Path, small_settings: list[str], tmp_path: Path
) -> None:
    model = str(tiny_llama if source == "a checkpoint" else file)
    stored = hubquant("run", model, *small_settings, "-o", str(tmp_path / "stored"), "--json")
    assert stored.code == 0, stored.err
    line = ("run", model, *small_settings, *STREAMED, "-o", str(tmp_path / "out"))
    streamed = hubquant(*line, "--json")
    assert streamed.code == 0, streamed.err
    expected, found = divergences(stored.out), divergences(streamed.out)
    for type, divergence in found.items():
        assert divergence["kld"]["mean"] == pytest.approx(expected[type]["kld"]["mean"], abs=1e-5)
        assert divergence["ppl"]["ppl"] == pytest.approx(expected[type]["ppl"]["ppl"], rel=1e-5)
        assert divergence["ppl_base"]["ppl"] == pytest.approx(expected[type]["ppl_base"]["ppl"], rel=1e-5)
    report = json.loads(streamed.out)["files"]
    assert all(each["runtime"].startswith("passed: same tokens, same next token for") for each in report)


def test_another_type_is_measured_alone(tiny_llama: Path, small_settings: list[str], tmp_path: Path) -> None:
    line = ("run", str(tiny_llama), *small_settings, *STREAMED, "-o", str(tmp_path / "out"))
    assert hubquant(*line).code == 0
    more = hubquant(*line, "--set", "quantize.types=[Q8_0, Q4_K_M, Q3_K_M]")
    assert more.code == 0, more.err
    assert "(streamed) (done before)" in more.err
    assert "evaluate: Q3_K_M" in more.err
    assert "evaluate: Q8_0" not in more.err


def test_what_does_not_fit_is_streamed(tiny_llama: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    components = [
        open_component(ModelReference(folder=str(tiny_llama))),
        open_component(ModelReference(file=str(file))),
    ]

    def chosen() -> set[tuple[str, str]]:
        return {(choose_offload(Imatrix(), each, "cpu"), choose_way("auto", each, "cpu")) for each in components}

    assert chosen() == {("none", "stored")}
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1 << 16, available=1 << 16))
    assert chosen() == {("stream", "streamed")}
    assert {choose_way("stored", each, "cpu") for each in components} == {"stored"}


@pytest.mark.parametrize("source", ["a checkpoint", "a file"])
def test_baselines_and_perplexity_are_streamed(source: str, tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    model = str(tiny_llama if source == "a checkpoint" else file)
    few = ("--chunks", "3", "--chunk-size", "64", "--json")

    def both(*line: str) -> list[float]:
        found = [hubquant("evaluate", *line, *few, "--way", way) for way in ("stored", "streamed")]
        assert found[1].code == 0, found[1].err
        assert "(streamed)" in found[1].err
        return [json.loads(each.out).get("ppl") for each in found]

    stored, streamed = both("ppl", model)
    assert streamed == pytest.approx(stored, rel=1e-6)
    if source == "a checkpoint":
        stored, streamed = both("ppl", model, "--ppl-stride", "32")
        assert streamed == pytest.approx(stored, rel=1e-6)
    for way in ("stored", "streamed"):
        out = str(tmp_path / f"{way}.h5")
        outcome = hubquant("evaluate", "baseline", model, "-o", out, "--full", "--way", way, *few[:-1])
        assert outcome.code == 0, outcome.err
    with Baseline.open(tmp_path / "stored.h5") as one, Baseline.open(tmp_path / "streamed.h5") as other:
        assert one.identity == other.identity
        torch.testing.assert_close(other.scores.all_nll, one.scores.all_nll, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_streamed_says_what_can(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hellaswag(tmp_path / "h.txt", 3)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1 << 16, available=1 << 16))
    refused = hubquant("evaluate", "hellaswag", str(tiny_llama), "-f", str(tmp_path / "h.txt"))
    assert refused.code == 2
    assert f"what streams is: hubquant evaluate ppl {tiny_llama}" in refused.err


def test_a_plan_shows_what_is_streamed(file: Path, small_settings: list[str], tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"))
    plans = [
        json.loads(hubquant("plan", str(file), *small_settings, *options, *store, "-o", str(tmp_path), "--json").out)
        for options in ((), STREAMED)
    ]
    details = [{step["name"]: step["detail"] for step in plan["steps"]} for plan in plans]
    assert details[1]["imatrix"] == f"{details[0]['imatrix']} (offload: stream)"
    assert details[1]["baseline"] == f"{details[0]['baseline']} (streamed)"
    width = GGUFFile.open(file).tensors["token_embd.weight"].shape[1]
    kept, meanwhile = 4 * 3 * 64 * width, 4 * 4 * 4 * 64 * width
    others = plans[1]["disk_bytes"] - kept - meanwhile
    assert 0 < others < plans[0]["disk_bytes"]  # files, matrix and reports, and no predictions


def test_llama_cpp_is_not_asked_about_what_it_cannot_hold(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"evaluate.way": "streamed", "evaluate.chunks": 2, "evaluate.chunk_size": 64, "imatrix.skip": True}
    plan = make_plan(tiny_llama, types="Q8_0", out=tmp_path / "out", overrides=settings)
    runtime = plan.tasks.files[0].runtime
    assert runtime is not None
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1 << 16, available=1 << 16))
    found = runtime.measure(tmp_path, Context(Store(tmp_path / "store"), Silent()))
    assert str(found) == "skipped: the file is larger than the memory of the machine that it was made on"


def test_several_files_against_a_model(tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    few = ("--chunks", "2", "--chunk-size", "64")
    made = hubquant("quantize", str(file), "-t", "Q8_0,Q4_0", "-o", str(tmp_path))
    assert made.code == 0, made.err
    files = [str(tmp_path / f"tiny-{type}.gguf") for type in ("Q8_0", "Q4_0")]
    measured: dict[str, list[float]] = {}
    for way in ("stored", "streamed"):
        for model in (tiny_llama, file):
            outcome = hubquant("evaluate", "run", *files, "-b", str(model), *few, "--way", way, "--json")
            assert outcome.code == 0, outcome.err
            found = json.loads(outcome.out)
            assert [each["file"] for each in found] == files
            measured[f"{way} {model.name}"] = [each["kld"]["mean"] for each in found]
    first, *others = measured.values()
    assert first[0] < first[1]
    assert all(other == pytest.approx(first, abs=1e-5) for other in others)
    shown = hubquant("evaluate", "run", *files, "-b", str(tiny_llama), *few, "--way", "streamed")
    assert shown.out.splitlines()[0].split() == [
        "File",
        "Mean",
        "KLD",
        "99.9",
        "%",
        "KLD",
        "Same",
        "top",
        "token",
        *("PPL", "ratio"),
    ]
    assert "evaluate: tiny-Q8_0.gguf (done before)" in shown.err or "(done before)" in shown.err


def test_mistakes(tiny_llama: Path, file: Path, tmp_path: Path) -> None:
    stored = tmp_path / "b.h5"
    few = ("--chunks", "2", "--chunk-size", "64")
    assert hubquant("evaluate", "baseline", str(tiny_llama), "-o", str(stored), *few).code == 0
    for options, message in {
        ("-b", str(stored), "--way", "streamed"): "--way is for a model as the baseline",
        ("-b", str(stored), "-f", "x.txt"): "--file is for a model as the baseline",
        ("-b", str(tmp_path / "none")): "there is no folder",
    }.items():
        refused = hubquant("evaluate", "run", str(file), *options)
        assert refused.code == 2
        assert refused.is_one_message()
        assert message in refused.err
