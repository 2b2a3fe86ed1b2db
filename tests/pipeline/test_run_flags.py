"""The flags of ``run`` and ``plan`` for common settings of a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hubquant.gguf_file import GGUFFile
from tests.support.cli import hubquant
from tests.support.localhub import LocalHub

FEW = ["--chunks", "2", "--chunk-size", "16"]
GONE = next(
    name
    for name, found in {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.items()
    if not found
)


@pytest.fixture(scope="module")
def matrices(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = [str(tmp_path_factory.mktemp("matrices") / name) for name in ("a.gguf", "b.gguf")]
    for path in paths:
        outcome = hubquant("imatrix", "collect", str(tiny_llama), *FEW, "-o", path)
        assert outcome.code == 0, outcome.err
    return paths


def test_flags_are_settings_of_the_recipe(matrices: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    out, same = tmp_path / "out", ["--mode", "exact", "--imatrix", matrices[0], "--threads", "1"]
    outcome = hubquant("run", str(tiny_llama), "-t", "Q4_K_M", "--no-eval", *same, "--out", str(out))
    assert outcome.code == 0, outcome.err
    alone = tmp_path / "alone.gguf"
    assert hubquant("quantize", str(tiny_llama), "-t", "Q4_K_M", *same, "-o", str(alone)).code == 0
    assert (out / "tiny-llama-Q4_K_M.gguf").read_bytes() == alone.read_bytes()
    assert not (out / "plot.png").exists()


def test_a_fresh_dry_run_shows_all_that_it_would_make(tiny_llama: Path, tmp_path: Path) -> None:
    line = [str(tiny_llama), "-t", "Q8_0", "--no-eval", "--set", "imatrix.skip=true", "--out", str(tmp_path / "out")]
    assert hubquant("run", *line).code == 0
    again, fresh = (hubquant("run", *line, "--dry-run", *more, "--json") for more in ([], ["--fresh"]))
    steps = [{step["name"]: step["done"] for step in json.loads(each.out)["steps"]} for each in (again, fresh)]
    assert [step["quantize"] for step in steps] == [True, False]
    assert json.loads(fresh.out)["disk_bytes"] > json.loads(again.out)["disk_bytes"] == 0


def test_several_matrices_take_the_place_of_the_recipe_s(matrices: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{folder: {tiny_llama}}}\nimatrix: {{file: none.gguf}}\nevaluate: {{skip: true}}\n")
    line = [str(recipe), "--types", "Q2_K", "--out", str(tmp_path / "out")]
    both = [part for path in matrices for part in ("--imatrix", path)]
    outcome = hubquant("run", *line, *both)
    assert outcome.code == 0, outcome.err
    file = GGUFFile.open(tmp_path / "out" / "tiny-llama-Q2_K.gguf")
    assert file.metadata["quantize.imatrix.file"].value == "a.gguf, b.gguf"
    assert hubquant("plan", *line, "--imatrix", matrices[1], "--json").code == 0
    skipped = hubquant("plan", *line, "--set", "imatrix={skip: true}", "--imatrix", matrices[1], "--offload", "none")
    assert skipped.code == 0, skipped.err


def test_a_revision_and_a_private_repository(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/tiny", {path.name: path.read_bytes() for path in tiny_llama.iterdir()})
    commit = json.loads(hubquant("plan", "org/tiny", "--no-eval", "--set", "imatrix.skip=true", "--json").out)[
        "revision"
    ]
    line = ["org/tiny", "-t", "Q8_0", "--no-eval", "--set", "imatrix.skip=true", "--revision", commit]
    outcome = hubquant("run", *line, "--push", "alice/tiny-GGUF", "--private", "--out", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.err
    assert hub.repository("alice/tiny-GGUF").private
    assert commit in (tmp_path / "out" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--mode", "fast"], "--mode: 'fast' is not one of exact, best"),
        (["--offload", "gpu"], "--offload: 'gpu' is not one of auto, none, cpu, disk, stream"),
        (["--revision", "v2"], "a revision is that of a repository on the Hub"),
        (["--imatrix", "none.gguf"], "there is no imatrix none.gguf"),
        (["--device", GONE], f"there is no device {GONE}"),
        (["--threads", "0"], "--threads"),
        (["--types", "Q4_K_L"], "unknown file type 'Q4_K_L'"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_mistakes(command: str, flags: list[str], what: str, tiny_llama: Path, tmp_path: Path) -> None:
    outcome = hubquant(command, str(tiny_llama), *flags, "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert what in outcome.err
    assert not (tmp_path / "out").exists()
