"""Layers that predict further tokens, which the model does not run: in plans, files, measurements and cards."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import hubquant
from hubquant.convert.blocks import open_checkpoint
from hubquant.gguf_file import GGUFFile
from hubquant.sources.checkpoint import open_folder
from tests.convert.test_llama_cpp import MODELS
from tests.support.ahead import add_ahead
from tests.support.cli import hubquant as command
from tests.support.conversion import build_uneven
from tests.support.llamacpp import LlamaCpp

FEW = [
    *("calibration.chunks=2", "calibration.chunk_size=32"),
    *("evaluate.chunks=1", "evaluate.chunk_size=64", "evaluate.engine=torch"),
]
WHICH = "blk.2, which predicts further tokens for llama.cpp to draft with, "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, and one ahead."""
    folder = tmp_path_factory.mktemp("ahead") / "tiny"
    return add_ahead(build_uneven("glm4_moe", folder, **MODELS["glm4_moe"][1]), "glm4_moe")


def types_ahead(path: Path) -> set[str]:
    return {entry.type for name, entry in GGUFFile.open(path).tensors.items() if name.startswith("blk.2.")}


def test_they_have_no_importance_and_are_not_measured(folder: Path, tmp_path: Path) -> None:
    hubquant.run(folder, types="IQ2_XS", mode="exact", overrides=FEW, out=tmp_path, progress=None)
    (note,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if WHICH in line]
    assert note.endswith("has no importance and is not measured: the model does not run it")
    assert types_ahead(tmp_path / "tiny-IQ2_XS.gguf").isdisjoint({"IQ2_XS", "IQ2_S"})
    plan = hubquant.plan(folder, types="IQ2_XS", overrides=FEW, progress=None)
    assert [note for note in plan.notes if WHICH in note]
    assert [note for note in plan.notes if "no data for 6 weights whose types need it" in note]
    alone = hubquant.plan(folder, types="Q8_0", no_eval=True, overrides=["imatrix.skip=true"], progress=None)
    assert not [note for note in alone.notes if WHICH in note]


@pytest.mark.slow
def test_a_size_is_met_by_what_was_measured(folder: Path, tmp_path: Path) -> None:
    """The others are as in the file of llama-quantize that is nearest."""
    hubquant.run(folder, types="5.5bpw", mode="exact", overrides=FEW, out=tmp_path, progress=None)
    path = tmp_path / "tiny-max-5_5bpw-Q4_K_M.gguf"
    n_weights = sum(math.prod(entry.shape) for entry in GGUFFile.open(path).tensors.values())
    assert 5.4 <= 8 * path.stat().st_size / n_weights <= 5.5
    assert types_ahead(path) == {"F32", "Q4_K", "Q5_K", "Q8_0"}


def test_they_are_left_out_of_every_source(folder: Path, tmp_path: Path) -> None:
    for name, flags in (("with", []), ("without", ["--no-mtp"])):
        made = command("convert", str(folder), *flags, "-o", str(tmp_path / f"{name}.gguf"))
        assert made.code == 0, made.err
    whole, without = (GGUFFile.open(tmp_path / f"{name}.gguf") for name in ("with", "without"))
    made = command("quantize", str(tmp_path / "with.gguf"), "-t", "BF16", "--no-mtp", "-o", str(tmp_path / "of.gguf"))
    assert made.code == 0, made.err
    of_file = GGUFFile.open(tmp_path / "of.gguf")
    for file in (without, of_file):
        assert file.tensors.keys() == {name for name in whole.tensors if not name.startswith("blk.2.")}
        assert (file.metadata["glm4moe.block_count"].value, "glm4moe.nextn_predict_layers" in file.metadata) == (
            2,
            False,
        )
    assert hubquant.plan(folder, types="Q8_0", no_mtp=True, no_eval=True, progress=None).work.files[0].types.keys() == (
        without.tensors.keys()
    )


def test_layers_before_them_may_be_pruned(folder: Path, tmp_path: Path) -> None:
    made = command("quantize", str(folder), "-t", "Q8_0", "--prune-layers", "0", "-o", str(tmp_path / "cut.gguf"))
    assert made.code == 0, made.err
    file = GGUFFile.open(tmp_path / "cut.gguf")
    assert (file.metadata["glm4moe.block_count"].value, file.metadata["glm4moe.nextn_predict_layers"].value) == (2, 1)
    assert "blk.1.nextn.eh_proj.weight" in file.tensors
    with LlamaCpp(tmp_path / "cut.gguf") as llama:
        assert llama.logits([5, 6]).shape == (2, 384)
    refused = command("quantize", str(folder), "-t", "Q8_0", "--prune-layers", "2", "-o", str(tmp_path / "no.gguf"))
    assert (refused.code, "there is no layer 2 to prune" in refused.err) == (2, True)


def test_blocks_that_stream_end_before_them(tmp_path: Path) -> None:
    folder = add_ahead(build_uneven("qwen3_5_text", tmp_path / "tiny", **MODELS["qwen3_5"][1]), "qwen3_5_text")
    names = open_checkpoint(open_folder(folder, "tiny").checkpoint)._reader.names
    assert names
    assert not [name for name in names if name.startswith("mtp.")]
