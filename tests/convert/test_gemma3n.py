"""Gemma 3n, most of whose sizes llama.cpp has in its code: these models have them, and are small elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.models import identify
from hubquant.sources.checkpoint import load_folder
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, plan, relative_error, write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.multimodal import rename

# 20 layers with keys of their own, and two kinds of layers among the five that use theirs
FAMILY = "gemma3n_text"
CONFIG: dict[str, Any] = {
    "tie_word_embeddings": True,
    "num_hidden_layers": 25,
    "num_kv_shared_layers": 5,
    "hidden_size": 64,
    "head_dim": 32,
    "intermediate_size": 2048,
    "sliding_window": 32,
    "vocab_size_per_layer_input": 200,
}
IDS = torch.randint(3, 380, (160,), generator=torch.Generator().manual_seed(0)).tolist()


def build(folder: Path, **config: Any) -> Path:
    return edit_weights(build_uneven(FAMILY, folder, **(CONFIG | config)), damp)


def damp(weights: Weights) -> None:
    """Smaller parts of every layer.

    llama.cpp divides the variance of n activations by n - 1 where transformers divides it by n, and takes GELU from a
    table in F16. Ten layers in a row that keep a twentieth of random activations make these differences a hundred
    times as large.
    """
    for part, factor in {"post_feedforward_layernorm": 0.1, "post_attention_layernorm": 0.5, "q_norm": 0.5}.items():
        weights.update({name: x * factor for name, x in weights.items() if part in name})


def add_unused(weights: Weights) -> None:
    """Keys and values of layers that use others', as they are in Google's checkpoints."""
    for layer in range(20, 25):
        for part in ("k_proj", "v_proj", "k_norm"):
            like = weights[f"model.layers.19.self_attn.{part}.weight"]
            weights[f"model.layers.{layer}.self_attn.{part}.weight"] = torch.randn(like.shape)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.tensor([IDS])).logits[0]
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("gemma3n"))


@pytest.mark.parametrize("unused", [False, True])
def test_logits_equal_transformers(unused: bool, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder, file = build(tmp_path / "model"), tmp_path / "model.gguf"
    if unused:
        edit_weights(folder, add_unused)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = logits(model)
    write_gguf(folder, file, "F32")
    with LlamaCpp(file) as llama:
        found = torch.from_numpy(llama.logits(IDS))
    assert relative_error(found, expected) <= 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert relative_error(logits(load_model(file)), expected) <= 1e-4
    for layer in model.model.layers[:10]:
        layer.mlp.activation_sparsity = 0
    assert relative_error(logits(model), expected) > 0.1  # what is proved above is not lost in the damping


def test_the_language_model_of_a_multimodal_checkpoint(tmp_path: Path) -> None:
    folder = build(tmp_path)
    alone, expected = plan(folder), logits(load_folder(folder, "cpu"))
    text = json.loads((folder / "config.json").read_text())
    del text["architectures"]
    whole = {"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n", "text_config": text}
    (folder / "config.json").write_text(json.dumps(whole))
    rename(folder, ("model.", "model.language_model."))
    edit_weights(folder, add_towers)
    found = plan(folder)
    assert found.shapes == alone.shapes
    assert found.metadata == alone.metadata
    assert found.taps == alone.taps
    assert identify(folder).model_class == "Gemma3nForCausalLM"
    assert torch.equal(logits(load_folder(folder, "cpu")), expected)


def add_towers(weights: Weights) -> None:
    names = ("vision_tower.timm_model.conv_stem.conv", "audio_tower.conformer.0.norm", "embed_vision.embedding")
    weights.update({f"model.{name}.weight": torch.ones(3) for name in names})


def test_every_matrix_is_observed_but_those_of_streams(folder: Path) -> None:
    conversion, model = plan(folder), AutoModelForCausalLM.from_pretrained(folder)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear - {tap.module for tap in conversion.taps.values()} == {
        f"model.altup_{kind}projections.{stream}" for kind in ("", "unembed_") for stream in range(3)
    }
    assert {f"blk.{layer}.attn_{part}.weight" for layer in range(25) for part in "qkv"} <= conversion.taps.keys()


def test_tokens_beyond_the_table_of_layers_have_its_first_row(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    table = load_file(folder / "model.safetensors")["model.embed_tokens_per_layer.weight"]
    found = load_model(tmp_path / "model.gguf").model.embed_tokens_per_layer.weight
    assert len(table) == 200 < len(found)
    assert torch.equal(found[:200], table)
    assert (found[200:] == table[0]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"altup_num_inputs": 3}, "altup_num_inputs '3'"),
        ({"altup_active_idx": 1}, "altup_active_idx '1'"),
        ({"altup_correct_scale": False}, "altup_correct_scale 'False'"),
        ({"laurel_rank": 32}, "laurel_rank '32'"),
        ({"hidden_size_per_layer_input": 128}, "hidden_size_per_layer_input '128'"),
        ({"final_logit_softcapping": 20.0}, r"final_logit_softcapping '20\.0'"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ({"activation_sparsity_pattern": [0.0] * 25}, "this activation_sparsity_pattern"),
        ({"num_kv_shared_layers": 10}, "num_kv_shared_layers 10"),
        ({"intermediate_size": [2048] * 20 + [1024] * 5}, "MLPs of 2 widths, from 1024 to 2048"),
        ({"layer_types": ["full_attention"] * 25}, "this order of windowed layers"),
    ],
)
def test_other_values_than_llama_cpps_are_refused(changes: Any, message: str, folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    with pytest.raises(NotSupportedYet, match=message):
        plan(configure(copy, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_sparsity_pattern": 0.95}, r"activation_sparsity_pattern in config\.json is 0\.95"),
        ({"activation_sparsity_pattern": [0.95] * 3}, "is no gemma3n_text configuration"),
        ({"num_kv_shared_layers": -1}, r"num_kv_shared_layers in config\.json is -1"),
        ({"vocab_size_per_layer_input": 100_000}, r"vocab_size_per_layer_input in config\.json is 100000"),
        ({"intermediate_size": ["wide"] * 25}, r'intermediate_size in config\.json is "wide"'),
        ({"intermediate_size": []}, "is no gemma3n_text configuration"),
        ({"vocab_size_per_layer_input": 190}, "1 tensor has another shape"),
    ],
)
def test_values_that_no_model_has_are_refused(changes: Any, message: str, folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        plan(configure(copy, **changes))


def copied(folder: Path, to: Path) -> Path:
    for path in folder.iterdir():
        (to / path.name).hardlink_to(path)
    config = (to / "config.json").read_bytes()
    (to / "config.json").unlink()
    (to / "config.json").write_bytes(config)
    return to
