"""A type that only a fork of llama.cpp reads: refused, unless the recipe allows it; then made with warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hubquant.gguf_file import GGUFFile
from tests.support.cli import hubquant
from tests.support.llamacpp import LlamaCpp

FORK = "geoffmunn/llama.cpp"


@pytest.mark.parametrize(
    "settings",
    [
        ["--types", "Q3_K_HIFI"],
        ["--types", "Q3_K_S", "--set", "quantize.rules=[{match: attn_v, type: q3_k_hifi}]"],
        ["--types", "Q3_K_S", "--set", "quantize.output_tensor=Q3_K_HIFI"],
        ["--types", "Q3_K_S", "--set", "quantize.token_embedding=Q3_K_HIFI"],
    ],
)
def test_a_recipe_must_allow_it(settings: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant("run", str(tiny_llama), "--out", str(tmp_path / "out"), *settings)
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert FORK in outcome.err
    assert "quantize.allow_fork_types=true" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_run_warns_and_measures(tiny_llama: Path, tmp_path: Path, small_settings: list[str]) -> None:
    out = tmp_path / "out"
    line = [str(tiny_llama), "--out", str(out), *small_settings, "--set", "quantize.types=[Q3_K_HIFI, Q3_K_S]"]
    line += ["--set", "quantize.allow_fork_types=true"]
    plan = hubquant("plan", *line)
    assert f"note: Q3_K_HIFI: only {FORK}" in plan.out, plan.err
    outcome = hubquant("run", *line, "--json")
    assert outcome.code == 0, outcome.err
    assert FORK in outcome.err
    files = {file["type"]: file for file in json.loads(outcome.out)["files"]}
    assert files["Q3_K_HIFI"]["runtime"].startswith(f"skipped: only {FORK}")
    assert files["Q3_K_S"]["runtime"].startswith("passed")
    assert files["Q3_K_HIFI"]["divergence"]["kld"]["mean"] < files["Q3_K_S"]["divergence"]["kld"]["mean"]

    path = out / f"{tiny_llama.name}-Q3_K_HIFI.gguf"
    made, stock = GGUFFile.open(path), GGUFFile.open(out / f"{tiny_llama.name}-Q3_K_S.gguf")
    assert made.metadata["general.file_type"].value == 45
    for name, tensor in stock.tensors.items():
        assert made.tensors[name].type == {"Q3_K": "Q3_K_HIFI"}.get(tensor.type, tensor.type)
    assert "Q3_K_HIFI" in hubquant("inspect", str(path)).out
    with pytest.raises((RuntimeError, OSError, ValueError)):
        LlamaCpp(str(path))

    card = (out / "README.md").read_text("utf-8")
    assert f"**Warning:** {path.name} is loaded only by [{FORK}]" in card
    assert "llama.cpp loads every other file, cuts" in card
    assert f"llama-server -m {tiny_llama.name}-Q3_K_S.gguf" in card


def test_single_commands(tiny_llama: Path, tmp_path: Path) -> None:
    line = ["quantize", str(tiny_llama), "-t", "Q4_K_M", "-o", str(tmp_path), "--tensor-type", "ffn_up=Q3_K_HIFI"]
    refused = hubquant(*line)
    assert refused.code == 2
    assert refused.is_one_message(), refused.err
    assert "--allow-fork-types" in refused.err
    assert not list(tmp_path.iterdir())
    made = hubquant(*line, "--allow-fork-types")
    assert made.code == 0, made.err
    assert f"note: Q4_K_M: only {FORK}" in made.err
    path = tmp_path / f"{tiny_llama.name}-Q4_K_M.gguf"
    types = {name: tensor.type for name, tensor in GGUFFile.open(path).tensors.items()}
    assert {name for name, type in types.items() if type == "Q3_K_HIFI"} == {n for n in types if "ffn_up" in n}

    without = tmp_path / "without"
    stock = ["quantize", str(tiny_llama), "-t", "Q4_K_M", "-o", str(without), "--tensor-type", "ffn_up=Q3_K"]
    made = hubquant(*stock, "--tensor-type", "ffn_sideways=Q8_0")
    assert made.code == 0
    assert "note: the rule ffn_sideways=Q8_0 fits no tensor and changes nothing" in made.err
    assert "ffn_up=Q3_K fits" not in made.err
    baseline, few = tmp_path / "baseline.h5", ["--chunks", "2", "--chunk-size", "64"]
    assert hubquant("evaluate", "baseline", str(tiny_llama), "-o", str(baseline), *few).code == 0
    klds = []
    for file in (path, without / path.name):
        measured = hubquant("evaluate", "run", str(file), "--baseline", str(baseline), "--json")
        assert measured.code == 0, measured.err
        klds.append(json.loads(measured.out)["kld"]["mean"])
    assert min(klds) > 0
