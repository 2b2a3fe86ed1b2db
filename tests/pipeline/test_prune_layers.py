"""Files without some of the model's layers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.metadata import booleans, i32s, u32
from hubquant.imatrix import load_imatrix, save
from hubquant.models.tiny import build
from hubquant.sources.pruning import pruned_metadata
from tests.support.cli import Outcome, hubquant
from tests.support.llamacpp import LlamaCpp

LEFT = (0, 3)
"""Of four layers."""
FEW = ["--chunks", "2", "--chunk-size", "16"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("whole") / "tiny", num_hidden_layers=4)


@pytest.fixture(scope="module")
def cut(whole: Path) -> Path:
    """The model that transformers has without the layers."""
    model = AutoModelForCausalLM.from_pretrained(whole)
    model.model.layers = torch.nn.ModuleList(model.model.layers[layer] for layer in LEFT)
    model.config.num_hidden_layers = len(LEFT)
    folder = whole.parent / "cut"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def matrices(whole: Path) -> tuple[Path, Path]:
    """That of the whole model, and the same for the one without the layers."""
    first, second = whole.parent / "whole.gguf", whole.parent / "cut.gguf"
    outcome = hubquant("imatrix", "collect", str(whole), *FEW, "-o", str(first))
    assert outcome.code == 0, outcome.err
    matrix = load_imatrix(first)
    entries = {}
    for name, entry in matrix.entries.items():
        prefix, layer, rest = name.split(".", 2) if name.startswith("blk.") else ("", "", name)
        if not prefix:
            entries[name] = entry
        elif int(layer) in LEFT:
            entries[f"blk.{LEFT.index(int(layer))}.{rest}"] = entry
    save(dataclasses.replace(matrix, entries=entries), second)
    return first, second


def quantize(*arguments: object) -> Outcome:
    outcome = hubquant("quantize", *map(str, arguments))
    assert outcome.code == 0, outcome.err
    return outcome


def same_weights(first: Path, second: Path) -> bool:
    one, two = GGUFFile.open(first), GGUFFile.open(second)
    assert list(one.tensors.values()) == list(two.tensors.values())
    return all(one.data(name).equal(two.data(name)) for name in one.tensors)


def of_the_model(path: Path) -> dict[str, object]:
    metadata = GGUFFile.open(path).metadata
    return {key: kv for key, kv in metadata.items() if key.startswith(("llama.", "tokenizer.", "general.file_type"))}


@pytest.mark.parametrize("type", ["F16", "Q4_K_M", "IQ2_S"])
def test_a_pruned_model_is_the_one_without_the_layers(
    type: str, whole: Path, cut: Path, matrices: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    # llama-quantize counts the layers of the whole model where it mixes types
    same = ["-t", type, "--pure", "--output-tensor-type", "Q6_K", "--token-embedding-type", "Q6_K"]
    quantize(whole, *same, "--prune-layers", "2,1", "--imatrix", matrices[0], "-o", ours)
    quantize(cut, *same, "--imatrix", matrices[1], "-o", theirs)
    assert same_weights(ours, theirs)
    assert of_the_model(ours) == of_the_model(theirs)
    with LlamaCpp(ours) as one, LlamaCpp(theirs) as two:
        assert np.array_equal(one.logits([1, 2, 3]), two.logits([1, 2, 3]))


def test_of_a_file_too(whole: Path, tmp_path: Path) -> None:
    floats, pruned = tmp_path / "floats.gguf", ["--prune-layers", "0,2"]
    quantize(whole, "-t", "F16", "--split-max-tensors", 9, "-o", floats)
    first = next(tmp_path.glob("floats-00001-of-*"))
    quantize(whole, "-t", "Q4_0", *pruned, "-o", tmp_path / "a.gguf")
    quantize(first, "-t", "Q4_0,COPY", *pruned, "--keep-split", "-o", tmp_path)
    quantize(whole, "-t", "F16", *pruned, "-o", tmp_path / "b.gguf")
    for type, other in (("Q4_0", "a"), ("COPY", "b")):
        found = GGUFFile.open(next(tmp_path.glob(f"floats-{type}-00001-of-*")))
        assert found.metadata["llama.block_count"] == u32(2)
        expected = GGUFFile.open(tmp_path / f"{other}.gguf")
        assert found.tensors == expected.tensors
        if type == "COPY":
            assert all(found.data(name).equal(expected.data(name)) for name in expected.tensors)


def test_layers_are_part_of_what_a_file_is_made_of(whole: Path, tmp_path: Path) -> None:
    """Files without one layer or another have the same header."""
    paths = [tmp_path / f"{layer}.gguf" for layer in range(2)]
    for layer, path in enumerate(paths):
        quantize(whole, "-t", "Q8_0", "--prune-layers", layer, "-o", path)
    one, other = map(GGUFFile.open, paths)
    assert one.metadata["hubquant.recipe_sha256"] != other.metadata["hubquant.recipe_sha256"]
    assert not one.data("blk.0.attn_q.weight").equal(other.data("blk.0.attn_q.weight"))


def test_a_run_measures_against_the_whole_model(whole: Path, tmp_path: Path) -> None:
    few = ["calibration.chunk_size=16", "calibration.chunks=2", "evaluate.chunk_size=64", "evaluate.chunks=1"]
    settings = [part for each in (*few, "quantize.prune_layers=1,2") for part in ("--set", each)]
    outcome = hubquant("run", str(whole), "-t", "Q8_0", *settings, "--out", str(tmp_path), "--json")
    assert outcome.code == 0, outcome.err
    (measured,) = json.loads((tmp_path / "measurements.json").read_text())["files"]
    assert measured["divergence"]["kld"]["mean"] > 0.1
    assert GGUFFile.open(tmp_path / "tiny-Q8_0.gguf").metadata["llama.block_count"] == u32(2)


def test_lists_by_layer_lose_their_values() -> None:
    metadata = {
        "x.block_count": u32(4),
        "x.leading_dense_block_count": u32(2),
        "x.attention.head_count_kv": i32s([1, 2, 3, 4]),
        "x.attention.sliding_window_pattern": booleans([True, False, True, False]),
        "x.rope.dimension_sections": i32s([1, 2, 3]),
        "tokenizer.ggml.token_type": i32s([1, 2, 3, 4]),
    }
    found = pruned_metadata(metadata, "x", [1, 2], 4)
    assert found == metadata | {
        "x.block_count": u32(2),
        "x.leading_dense_block_count": u32(1),
        "x.attention.head_count_kv": i32s([2, 3]),
        "x.attention.sliding_window_pattern": booleans([False, True]),
    }


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ("4", "there is no layer 4 to prune: the model has 4"),
        ("0,1,2,3", "no layer would be left"),
        ("a", "--prune-layers: 'a' is no layer"),
        ("-1", "--prune-layers"),
        ("1,,2", "--prune-layers: '' is no layer"),
    ],
)
def test_mistakes(layers: str, what: str, whole: Path, tmp_path: Path) -> None:
    outcome = hubquant("quantize", str(whole), "-t", "Q8_0", "--prune-layers", layers, "-o", str(tmp_path / "out"))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert what in outcome.err
    assert not list(tmp_path.iterdir())
