"""Every layer that a library has quantized is told from another one, whatever it is held in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hubquant.backends.libraries.registry import LIBRARIES, library, named
from hubquant.backends.sketch import check_sketch, keep_sketch
from hubquant.models.tiny import build

FAST = ("bitsandbytes:nf4", "torchao:int8wo", "sdnq:uint4")
ON_CPU = [
    f"{name}:{type.name}"
    for name in LIBRARIES
    for type in library(name).types.values()
    if type.name != "int4wo" and not type.calibrated
]
ENTRIES = [pytest.param(entry, marks=[] if entry in FAST else pytest.mark.slow) for entry in ON_CPU]
LAYER, OTHER = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.gate_proj"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llama", tmp_path_factory.mktemp("models") / "llama", hidden_size=256, initializer_range=0.02)


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("entry", ENTRIES)
def test_rounding_is_told_from_another_layer(entry: str, llama: Path, tmp_path: Path) -> None:
    backend, type = named(entry)
    path = tmp_path / "sketch.safetensors"
    model = loaded(llama)
    keep_sketch(model, backend.types[type], path)
    sound = check_sketch(backend.quantized(model, type), backend, path)
    assert not sound.wrong
    assert sound.n_layers > 0
    assert sound.error > 0

    model = loaded(llama)
    layer, other = model.get_submodule(LAYER), model.get_submodule(OTHER)
    layer.weight.data, other.weight.data = other.weight.data, layer.weight.data
    assert check_sketch(backend.quantized(model, type), backend, path).wrong.startswith((LAYER, OTHER))


def test_what_stayed_in_floats_is_the_same(llama: Path, tmp_path: Path) -> None:
    backend, type = named("torchao:int8wo")
    path = tmp_path / "sketch.safetensors"
    model = loaded(llama)
    keep_sketch(model, backend.types[type], path)
    with torch.no_grad():
        model.model.norm.weight[0] += 0.001
    assert check_sketch(backend.quantized(model, type), backend, path).wrong == "model.norm.weight is not the source's"
