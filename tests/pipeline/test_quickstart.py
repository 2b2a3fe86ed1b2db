"""The quickstart: everything from the bundled model to a folder that could be pushed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import hubquant
from hubquant.calibration.bundled import bundled_path
from hubquant.gguf_file import GGUFFile
from tests.support.cli import hubquant as command
from tests.support.llamacpp import LlamaCpp

TYPES = ["Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "out"


def test_the_quickstart_measures_what_it_makes(out: Path) -> None:
    plan = hubquant.plan("quickstart", out=out)
    report = hubquant.run("quickstart", out=out)
    divergences = {file.measured.type: file.measured.divergence for file in report.files}
    assert list(divergences) == TYPES
    klds = [divergence.kld.mean for divergence in divergences.values() if divergence]
    assert all(better < worse for better, worse in pairwise(klds))
    assert 0 < klds[0] < 1e-3
    assert klds[-1] < 0.1
    for file in plan.files:
        assert (out / file.name).stat().st_size == file.size

    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if ".hubquant" not in path.parts}
    files = {f"hubquant-demo-{name}.gguf" for name in TYPES}
    assert names - {".hubquant"} == files | {
        "README.md",
        "recipe.yaml",
        "measurements.json",
        "imatrix.gguf",
        "plot.png",
    }
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text("utf-8")
    assert yaml.safe_load(card.split("---")[1])["tags"][:2] == ["gguf", "quantized"]
    for file_report in report.files:
        assert file_report.measured.runtime is not None
        assert file_report.measured.runtime.skipped is None
        assert file_report.measured.divergence is not None
        assert file_report.measured.in_llamacpp is not None
        # Activations are quantized too, so that it is farther from the source, which is seen on the best files alone.
        assert file_report.measured.in_llamacpp.n_tokens < file_report.measured.divergence.n_tokens
        ratio = file_report.measured.in_llamacpp.kld.mean / file_report.measured.divergence.kld.mean
        assert (1.5 if file_report.measured.type == "Q8_0" else 0.8) < ratio < 20
        assert file_report.measured.file in card
    assert "hubquant run recipe.yaml" in card


def test_its_files_are_llama_cpps(out: Path) -> None:
    text = bundled_path("test").read_text("utf-8")[:4000]
    for name in TYPES:
        path = out / f"hubquant-demo-{name}.gguf"
        metadata = GGUFFile.open(path).metadata
        assert metadata["quantize.imatrix.entries_count"].value == 28
        assert metadata["quantize.imatrix.chunks_count"].value > 30
        with LlamaCpp(str(path)) as model:
            ids = model.tokenize(text)[:500]
            assert model.ppl(ids) < 100


def test_a_second_run_makes_nothing_again(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.gguf")}
    outcome = command("run", "quickstart", "--out", str(out), "--json")
    assert outcome.code == 0, outcome.err
    events = [json.loads(line) for line in outcome.err.splitlines()]
    assert all(event["reused"] for event in events if event["event"] == "step" and event["name"] != "card")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.gguf")} == before
    assert [file["type"] for file in json.loads(outcome.out)["files"]] == TYPES


def test_one_more_type_leaves_the_others_alone(out: Path) -> None:
    outcome = command("run", "quickstart", "--out", str(out), "--types", ",".join([*TYPES, "Q4_0"]))
    assert outcome.code == 0, outcome.err
    assert "quantize: Q4_0\n" in outcome.err
    assert (out / "hubquant-demo-Q4_0.gguf").exists()


def test_single_commands_on_its_files(out: Path, tmp_path: Path) -> None:
    floats = tmp_path / "floats.gguf"
    assert command("convert", "demo", "-o", str(floats)).code == 0
    again = command(
        "quantize", str(floats), "-t", "Q4_K_M", "--imatrix", str(out / "imatrix.gguf"), "-o", str(tmp_path)
    )
    assert again.code == 0, again.err
    made = GGUFFile.open(tmp_path / "floats-Q4_K_M.gguf")
    expected = GGUFFile.open(out / "hubquant-demo-Q4_K_M.gguf")
    assert all((made.data(name) == expected.data(name)).all() for name in expected.tensors)

    baseline = tmp_path / "baseline.h5"
    few = ["--chunks", "2", "--chunk-size", "128"]
    assert command("evaluate", "baseline", "demo", "-o", str(baseline), *few).code == 0
    measured = command("evaluate", "run", str(floats), "--baseline", str(baseline), "--json")
    assert json.loads(measured.out)["kld"]["mean"] < 1e-6
    same = command("evaluate", "compare", str(baseline), str(baseline), "--json")
    assert json.loads(same.out)["same_top"] == 1
    source = json.loads(command("evaluate", "ppl", "demo", "--json", *few).out)
    file = json.loads(command("evaluate", "ppl", str(floats), "--json", *few).out)
    assert file["ppl"] == pytest.approx(source["ppl"], rel=1e-4)
    assert "blk.0.attn_q.weight" in command("inspect", str(floats), "--tensors").out
    assert "CosSim" in command("imatrix", "show", str(out / "imatrix.gguf")).out
    leftovers = {path.name for path in tmp_path.iterdir()}
    assert leftovers == {"floats.gguf", "floats-Q4_K_M.gguf", "baseline.h5"}
