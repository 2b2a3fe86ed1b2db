"""A matrix that grows with its text until it is of no use."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from hubquant.evaluate import summarize
from hubquant.evaluate.blocks import Blocks
from hubquant.imatrix import load_imatrix
from hubquant.pipeline.refine import Measured, judge, leading
from hubquant.recipe import load_recipe
from tests.evaluate.test_blocks import skewed
from tests.evaluate.test_report import chunks
from tests.support.cli import hubquant
from tests.support.processes import command, start

WORDS = [f"word {i} comes before word {i + 1} and after {i * i}." for i in range(900)]


def recipe(folder: Path, model: Path) -> Path:
    (folder / "text.txt").write_text("\n".join(WORDS))
    path = folder / "mine.yaml"
    path.write_text(
        f"# my recipe\nmodel: {{folder: {model}}}\n"
        f"calibration: {{sources: [{{file: {folder / 'text.txt'}}}], chunk_size: 32, chunks: 40}}\n"
        "evaluate: {chunks: 6, confidence: 0.5}\n"
    )
    return path


def line(path: Path, *more: str, sizes: str = "128,256,640") -> list[str]:
    return ["refine", str(path), "--type", "Q2_K", "--sizes", sizes, "--json", *more]


def test_the_matrix_grows_and_is_named_in_the_recipe(tiny_llama: Path, tmp_path: Path) -> None:
    path, plot = recipe(tmp_path, tiny_llama), tmp_path / "curve.png"
    before = path.read_text()
    planned = hubquant(*line(path, "--dry-run"))
    assert planned.code == 0, planned.err
    assert {step["name"] for step in json.loads(planned.out)["steps"]} == {
        *("imatrix", "baseline", "quantize", "evaluate")
    }
    outcome = hubquant(*line(path, "--plot", str(plot), "--store", str(tmp_path / "store")))
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    steps, best = found["steps"], found["best"]
    assert [step["tokens"] for step in steps] == [0, 128, 256, 640][: len(steps)]
    assert best["composite"] == min(step["composite"] for step in steps[1:])
    gains = [step["gain"] for step in steps[1:]]
    assert [gain["value"] for gain in gains] == pytest.approx(
        [a["composite"] - b["composite"] for a, b in pairwise(steps)]
    )
    unsure = [gain["value"] <= gain["half_width"] for gain in gains[1:]]
    assert unsure == [False] * (len(unsure) - 1) + [found["settled"]]
    assert found["over_none"]["value"] == pytest.approx(steps[0]["composite"] - best["composite"])
    matrix = tmp_path / "mine-imatrix.gguf"
    assert (found["imatrix"], found["recipe"]) == (str(matrix), str(path))
    assert load_imatrix(matrix).chunk_count == best["chunks"]
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert path.read_text() == f"{before}imatrix: {{file: {matrix}}}\n"
    assert load_recipe(str(path)).imatrix.file == str(matrix)
    again = hubquant(*line(path, "--store", str(tmp_path / "store")))
    assert json.loads(again.out) == found
    assert all(json.loads(event)["reused"] for event in again.err.splitlines() if '"event": "step"' in event)


def test_what_the_matrix_has_seen_is_not_collected_again(tiny_llama: Path, tmp_path: Path) -> None:
    path, store = recipe(tmp_path, tiny_llama), ["--store", str(tmp_path / "store")]
    outcome = hubquant(*line(path, *store, sizes="256,512"))
    assert outcome.code == 0, outcome.err
    details = [event["detail"] for event in map(json.loads, outcome.err.splitlines()) if event["event"] == "step"]
    collected = [detail for detail in details if detail.endswith("from text.txt") and "6 chunks" not in detail]
    assert collected == ["8 chunks of 32 tokens from text.txt"] * 2
    whole = hubquant(
        *["imatrix", "collect", str(tiny_llama), "-f", str(tmp_path / "text.txt"), "-o", str(tmp_path / "whole.gguf")],
        *["--chunk-size", "32", "--chunk", "6", "--chunks", "16", *store],
    )
    assert whole.code == 0, whole.err
    hubquant(*line(path, *store, sizes="512"))
    grown, expected = load_imatrix(tmp_path / "mine-imatrix.gguf"), load_imatrix(tmp_path / "whole.gguf")
    assert grown.entries.keys() == expected.entries.keys()
    for name, entry in grown.entries.items():
        torch.testing.assert_close(entry.in_sum2, expected.entries[name].in_sum2, rtol=1e-5, atol=0)
        assert torch.equal(entry.counts, expected.entries[name].counts)


def test_mixes_race(tiny_llama: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_llama)
    (tmp_path / "noise.txt").write_text("".join(chr(33 + i * i * 7919 % 90) for i in range(9000)))
    (tmp_path / "a.yaml").write_text(f"sources: [{{file: {tmp_path / 'text.txt'}}}]\n")
    (tmp_path / "b.yaml").write_text(f"calibration: {{sources: [{{file: {tmp_path / 'noise.txt'}}}]}}\n")
    mixes = f"{tmp_path / 'a.yaml'},{tmp_path / 'b.yaml'}"
    outcome = hubquant(*line(path, "--mixes", mixes, sizes="128,256"))
    assert outcome.code == 0, outcome.err
    steps = json.loads(outcome.out)["steps"]
    assert [step["mix"] for step in steps[:3]] == ["", "a", "b"]
    assert [step["behind"] is None for step in steps[1:3]].count(True) == 1
    wrong = hubquant(*line(path, "--mixes", str(tmp_path / "none.yaml")))
    assert wrong.code == 2
    assert "there is no recipe" in wrong.err


def test_models_larger_than_memory_are_streamed(tiny_llama: Path, tmp_path: Path) -> None:
    path, streamed = recipe(tmp_path, tiny_llama), ["--set", "evaluate.way=streamed", "--set", "imatrix.offload=stream"]
    found, expected = (json.loads(hubquant(*line(path, *way, sizes="128")).out)["steps"] for way in (streamed, []))
    assert [step["tokens"] for step in found] == [0, 128]
    for a, b in zip(found, expected, strict=True):
        assert a["composite"] == pytest.approx(b["composite"], rel=0.02)


def measured(mix: str, factor: float, tilt: float = 0.0) -> Measured:
    kld = factor * skewed(40, 200) * (1 + tilt * torch.randn(40, 1, generator=torch.Generator().manual_seed(3)))
    return Measured(mix, 8, 256, summarize(chunks(kld), 1000), Blocks.of(kld))


def test_a_mix_that_surely_falls_behind_is_dropped() -> None:
    near, far, unsure = measured("near", 1.0), measured("far", 1.05), measured("unsure", 1.002, tilt=0.2)
    steps = judge([far, near, unsure], measured("", 1.0), 0.95)
    assert leading([far, near, unsure]) is near
    assert [step.dropped for step in steps] == [True, False, False]
    assert steps[1].behind is None
    assert steps[1].gain is not None
    assert steps[1].gain.value == pytest.approx(0, abs=1e-12)
    assert not steps[1].gain.is_sure


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--type", "Q2_K", "--sizes", "many"], "'many' is no number of tokens"),
        (["--type", "Q4_K_M,Q8_0"], "--type names several types"),
        (["--type", "Q2_K", "--sizes", "900k,1M"], "too little text to refine on"),
    ],
)
def test_mistakes_are_told_before_any_work(more: list[str], message: str, tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant("refine", str(recipe(tmp_path, tiny_llama)), *more, "--dry-run")
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert message in outcome.err


def test_killed_in_the_middle_it_gives_the_same(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = hubquant(*line(recipe(tmp_path / "whole", tiny_llama), "--store", str(tmp_path / "untouched")))
    assert whole.code == 0, whole.err
    again = line(recipe(tmp_path / "killed", tiny_llama), "--store", str(tmp_path / "store"))
    process = start(command, *again, "--quiet")
    measured_files = tmp_path / "store" / "evaluation"
    while process.is_alive() and not (measured_files.is_dir() and len([*measured_files.glob("*")]) >= 2):
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not (tmp_path / "killed" / "mine-imatrix.gguf").exists()
    outcome = hubquant(*again)
    assert outcome.code == 0, outcome.err
    assert '"reused": true' in outcome.err
    found, expected = json.loads(outcome.out), json.loads(whole.out)
    assert found["steps"] == expected["steps"]
    name = "mine-imatrix.gguf"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
