"""Apertus' xIELU: what each layer has learned of it are tensors in a checkpoint, and lists in a file's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hubquant import convert, quantize
from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import read_numbers
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError, GGUFError
from hubquant.gguf_file import GGUFFile
from hubquant.gguf_file.metadata import Metadata, f32s
from tests.support.conversion import build_uneven, edit_weights, plan

N_LAYER = 3
NAMES = ("alpha_n", "alpha_p", "beta", "eps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"num_hidden_layers": N_LAYER, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    return build_uneven("apertus", tmp_path_factory.mktemp("apertus"), **small)


def learned(folder: Path, layers: Sequence[int] = range(N_LAYER)) -> Metadata:
    weights = load_file(folder / "model.safetensors")
    return {
        f"xielu.{name}": f32s(float(weights[f"model.layers.{layer}.mlp.act_fn.{name}"]) for layer in layers)
        for name in NAMES
    }


def held(path: Path) -> Metadata:
    return {key: kv for key, kv in GGUFFile.open(path).metadata.items() if key.startswith("xielu.")}


def test_a_plan_reads_no_weights_and_files_have_the_numbers(folder: Path, tmp_path: Path) -> None:
    conversion = plan(folder)
    zeros = {key: f32s([0.0] * N_LAYER) for key in learned(folder)}
    assert {key: conversion.metadata[key] for key in zeros} == zeros
    values = learned(folder)["xielu.alpha_p"].value
    assert isinstance(values, tuple)
    assert len({*values}) == N_LAYER
    convert(folder, out=tmp_path / "whole.gguf", type="F16", progress=None)
    assert held(tmp_path / "whole.gguf") == learned(folder)


@pytest.mark.slow
def test_files_of_files_and_of_some_layers_have_theirs(folder: Path, tmp_path: Path) -> None:
    convert(folder, out=tmp_path / "whole.gguf", type="F16", progress=None)
    for source in (folder, tmp_path / "whole.gguf"):
        out = tmp_path / f"{source.stem} without.gguf"
        quantize(source, "Q8_0", out=out, prune_layers=[1], progress=None)
        assert held(out) == learned(folder, (0, 2))
        assert torch.isfinite(load_model(out)(torch.tensor([[3, 4, 5]])).logits).all()


def test_numbers_that_are_missing_or_not_finite(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    name = "model.layers.1.mlp.act_fn.alpha_p"
    edit_weights(tmp_path, lambda weights: weights.update({name: torch.tensor([torch.nan])}))
    with pytest.raises(CheckpointError, match=name):
        read_numbers(plan(tmp_path), Checkpoint.from_folder(tmp_path))
    edit_weights(tmp_path, lambda weights: weights.__delitem__(name))
    with pytest.raises(CheckpointError, match=f"1 tensor is missing: {name}"):
        plan(tmp_path)


@pytest.mark.slow
def test_a_file_without_them_is_no_model(folder: Path, tmp_path: Path) -> None:
    convert(folder, out=tmp_path / "whole.gguf", type="F16", progress=None)
    gguf = GGUFFile.open(tmp_path / "whole.gguf")
    gguf.metadata["xielu.beta"] = f32s([0.5])
    with pytest.raises(GGUFError, match=r"xielu\.beta is no list of 3 numbers"):
        load_model(gguf)
