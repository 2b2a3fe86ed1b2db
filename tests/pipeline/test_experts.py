"""A model with experts through the whole pipeline, and types that cannot do without importance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import ImportanceMatrix, load_imatrix, save
from hubquant.imatrix.coverage import ESTIMATED
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven

TYPES = "IQ2_XXS,Q4_K_M"
FEW = ["calibration.chunk_size=64", "calibration.chunks=6", "evaluate.chunk_size=64", "evaluate.chunks=2"]


def settings(*more: str) -> list[str]:
    return [part for setting in (*FEW, *more) for part in ("--set", setting)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "tiny-moe"
    sizes = {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}
    return build_uneven("qwen3_moe", folder, **sizes)


@pytest.mark.parametrize("offload", ["none", "disk", "stream"])
def test_every_way_gives_the_same_matrix(offload: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "imatrix.gguf"
    memory = ("--max-memory", "cpu=1MB") if offload == "disk" else ()
    made = hubquant(
        *("imatrix", "collect", str(model), "-o", str(out), "--offload", offload, *memory),
        *("--chunks", "6", "--chunk-size", "64"),
    )
    assert made.code == 0, made.err
    assert "perplexity" in made.err
    reference = tmp_path / "reference.gguf"
    assert (
        hubquant("imatrix", "collect", str(model), "-o", str(reference), "--chunks", "6", "--chunk-size", "64").code
        == 0
    )
    differing = json.loads(hubquant("imatrix", "diff", str(out), str(reference), "--json").out)
    assert max(entry["relative"] for entry in differing["entries"]) < 1e-5
    assert [path for path in tmp_path.iterdir() if path not in (out, reference)] == []


def test_a_run_that_streams(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = hubquant("plan", str(model), "--types", TYPES, *settings("imatrix.offload=stream"))
    assert "offload: stream" in shown.out, shown.err
    made = hubquant("run", str(model), "--types", TYPES, "--out", str(out), *settings("imatrix.offload=stream"))
    assert made.code == 0, made.err
    matrix = load_imatrix(out / "imatrix.gguf")
    experts = matrix.entries["blk.0.ffn_down_exps.weight"]
    assert len(experts.counts) == 16
    assert bool((experts.counts > 0).all())
    assert matrix.provenance["model"] == "tiny-moe"
    if ESTIMATED in matrix.provenance:
        assert "saw no token" in made.err
    file = GGUFFile.open(next(out.glob("*IQ2_XXS.gguf")))
    assert file.tensors["blk.0.ffn_gate_exps.weight"].type == "IQ2_XXS"


def test_an_incomplete_matrix_gives_other_types(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    assert hubquant("imatrix", "collect", str(model), "-o", str(path), "--chunks", "6", "--chunk-size", "64").code == 0
    matrix = load_imatrix(path)
    part = {name: entry for name, entry in matrix.entries.items() if not name.startswith("blk.1.ffn")}
    save(ImportanceMatrix(part, matrix.datasets, 64, 6), path)
    arguments = ("-t", "IQ2_XXS", "-o", str(tmp_path), "--imatrix", str(path))
    made = hubquant("quantize", str(model), *arguments)
    assert made.code == 0, made.err
    assert "no data for" in made.err
    assert "Q2_K instead of IQ2_XXS" in made.err
    types = {name: entry.type for name, entry in GGUFFile.open(tmp_path / "tiny-moe-IQ2_XXS.gguf").tensors.items()}
    assert types["blk.1.ffn_up_exps.weight"] == "Q2_K"
    assert types["blk.0.ffn_up_exps.weight"] == "IQ2_XXS"
    shown = json.loads(
        hubquant("plan", str(model), "--types", "IQ2_XXS", "--json", *settings(f"imatrix.file={path}")).out
    )
    assert any("Q2_K instead of IQ2_XXS" in note for note in shown["notes"])
    without = hubquant("quantize", str(model), "-t", "IQ2_XXS", "-o", str(tmp_path))
    assert without.code == 2
    assert "needs an importance matrix" in without.err


def test_parts_of_a_collection_add_up_to_the_whole(model: Path, tmp_path: Path) -> None:
    few = ("--chunks", "20", "--chunk-size", "256", "--no-ppl")
    names = [str(tmp_path / f"{number}.gguf") for number in (1, 2, 3)]
    for number, name in enumerate(names, 1):
        made = hubquant("imatrix", "collect", str(model), "-o", name, "--shard", f"{number}/3", *few)
        assert made.code == 0, made.err
    whole, merged = tmp_path / "whole.gguf", tmp_path / "merged.gguf"
    assert hubquant("imatrix", "collect", str(model), "-o", str(whole), *few).code == 0
    assert hubquant("imatrix", "merge", *names, "-o", str(merged)).code == 0
    found, expected = load_imatrix(merged), load_imatrix(whole)
    assert found.chunk_count == expected.chunk_count == 20
    assert found.provenance.get(ESTIMATED) == expected.provenance.get(ESTIMATED)
    for name, entry in expected.entries.items():
        assert found.entries[name].counts.tolist() == entry.counts.tolist()
        torch.testing.assert_close(found.entries[name].in_sum2, entry.in_sum2, rtol=1e-12, atol=0)


def test_the_matrix_so_far_is_written_when_asked(model: Path, tmp_path: Path) -> None:
    few = ("--chunks", "20", "--chunk-size", "256")
    out = tmp_path / "m.gguf"
    more = ("--save-frequency", "8", "--output-frequency", "8", "--chunk", "2")
    assert hubquant("imatrix", "collect", str(model), "-o", str(out), *few, *more).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "m.gguf.at_16", "m.gguf.at_8"]
    assert load_imatrix(tmp_path / "m.gguf.at_8").chunk_count == 8
    assert load_imatrix(out).chunk_count == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shard", "5/3"), "'5/3' is not a shard"),
        (("--shard", "3/3", "--chunks", "2"), "nothing is left for shard 3/3"),
        (("--max-memory", "lots"), "'lots' is no memory limit"),
        (("--chunk", "100000"), "there is no chunk 100001"),
        (("--offload", "stream", "--save-frequency", "3"), "no matrix before its end"),
    ],
)
def test_mistakes_are_told_before_work(arguments: tuple[str, ...], message: str, model: Path, tmp_path: Path) -> None:
    outcome = hubquant("imatrix", "collect", str(model), "-o", str(tmp_path / "x.gguf"), *arguments)
    assert outcome.code == 2
    assert outcome.is_one_message()
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []
