"""Layers behind the last, which predict further tokens: what llama.cpp drafts with them, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import plan_conversion
from hubquant.convert.plain import checkpoint_ahead
from hubquant.convert.restore import load_model, read_state_dict
from hubquant.gguf_file import GGUFFile
from hubquant.models.tiny import build
from tests.convert.test_llama_cpp import IDS, MODELS, logits, relative_error
from tests.support.ahead import Drafting, add_ahead, drafts_by_transformers
from tests.support.conversion import build_uneven, configure, edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp

SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"], "indexer_types": ["full", "shared", "full"]}
PLAIN_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
AHEAD: dict[str, dict[str, Any]] = {  # of the models in MODELS, and what is other than there
    "deepseek3 with yarn": {},
    "deepseek32": {},
    "exaone_moe": PLAIN_ROPE,
    "glm4_moe": {},
    "glm4_moe_lite": {},
    "glm_moe_dsa": SPARSE,
    "mimo_v2_flash": {},
    "nemotron_h with latent experts": {},
    "qwen3_5": {},
    "qwen3_5_moe": {},
    "qwen3_next": {},
}
NOT_RUN = ("exaone_moe",)
"""Whose layers llama.cpp keeps in files and does not load."""
SHALLOW = {"num_hidden_layers": 2, "n_routed_experts": 2, "moe_intermediate_size": 32, "num_experts_per_tok": 1}
HIDDEN = (16, 256)
FILE = "model.gguf"


@pytest.mark.parametrize("name", AHEAD)
def test_llama_cpp_drafts_as_the_layers_compute(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder = build_uneven(family, tmp_path / "model", **(config | AHEAD[name]))
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    without = plan(folder)
    add_ahead(folder, family, own_tables=name == "glm4_moe")
    conversion = write_gguf(folder, tmp_path / FILE, "F32")

    assert conversion.hparams["n_layer"] == without.hparams["n_layer"] + 1
    assert conversion.metadata[f"{conversion.architecture}.nextn_predict_layers"].value == 1
    assert conversion.taps == without.taps
    assert conversion.drafting == conversion.shapes.keys() - without.shapes.keys() != set()
    with LlamaCpp(tmp_path / FILE) as llama:
        assert relative_error(llama.logits(IDS), expected) <= 1e-3
    assert relative_error(logits(load_model(tmp_path / FILE)), expected) <= 1e-4

    left_out = plan_conversion(folder, Checkpoint.from_folder(folder), no_mtp=True)
    assert (left_out.metadata, left_out.shapes) == (without.metadata, without.shapes)
    assert any("left out, as was asked for" in note for note in left_out.notes)
    if name in NOT_RUN:
        return
    ids, states = IDS[: HIDDEN[0]], torch.randn(HIDDEN, generator=torch.Generator().manual_seed(3))
    with Drafting(tmp_path / FILE) as llama:
        found = llama.drafts(ids, states.numpy())
    by_transformers = drafts_by_transformers(folder, family, ids, states, tmp_path / "other")
    assert relative_error(found, by_transformers) <= 1e-4
    assert np.array_equal(found.argmax(-1), by_transformers.argmax(-1))


@pytest.mark.parametrize("name", AHEAD)
def test_they_are_read_back(name: str, tmp_path: Path) -> None:
    family, config = MODELS[name]
    folder = add_ahead(build(family, tmp_path / "model", dtype=torch.bfloat16, **(config | AHEAD[name])), family)
    edit_weights(folder, lambda weights: weights.update({k: x.bfloat16() for k, x in weights.items()}))
    conversion = write_gguf(folder, tmp_path / FILE, "BF16")
    checkpoint = checkpoint_ahead(Checkpoint.from_folder(folder))
    restored = dict(read_state_dict(GGUFFile.open(tmp_path / FILE)))
    ahead = [bundle for bundle in conversion.bundles if bundle.targets.keys() & conversion.drafting]
    assert ahead
    for name in (source for bundle in ahead for source in bundle.sources):
        assert torch.equal(restored[name], checkpoint.read(name).float()), name
    assert not any("nextn" in name for name in dict(read_state_dict(GGUFFile.open(tmp_path / FILE), ahead=False)))


def test_what_config_json_tells_and_the_files_do_not_hold(tmp_path: Path) -> None:
    folder = configure(build("glm4_moe", tmp_path, **SHALLOW), num_nextn_predict_layers=1)
    (note,) = plan(folder).notes
    assert note == (
        "config.json tells of 1 layer behind the last to predict further tokens (num_nextn_predict_layers), but the "
        "files hold none: neither does the GGUF file"
    )
    assert plan(configure(folder, num_nextn_predict_layers=0)).notes == ()
    (note,) = plan(add_ahead(folder, "glm4_moe")).notes
    assert note.endswith("is kept, though config.json tells of none")
    assert plan(configure(folder, num_nextn_predict_layers=1)).notes == ()


def test_a_layer_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    folder = add_ahead(build("glm4_moe", tmp_path, **SHALLOW), "glm4_moe")
    name = "model.layers.2.self_attn.k_proj.weight"
    edit_weights(folder, lambda weights: weights.update({f"{name}s": weights.pop(name)}))
    conversion = plan(folder)
    assert not conversion.drafting
    (note,) = conversion.notes
    assert f"left out, because {name} is missing: model.layers.2." in note


def test_exaones_layer_is_left_out_beside_factors_of_rope(tmp_path: Path) -> None:
    folder = add_ahead(build("exaone_moe", tmp_path, **MODELS["exaone_moe"][1]), "exaone_moe")
    conversion = plan(folder)
    assert not conversion.drafting
    (note,) = conversion.notes
    assert "llama.cpp loads no such layer beside factors of rope: mtp.fc.weight" in note


def test_experts_may_be_one_stack(tmp_path: Path) -> None:
    """As Qwen3.5's are in its own checkpoints."""
    family, config = MODELS["qwen3_5_moe"]
    folder = add_ahead(build(family, tmp_path, **config), family)
    single = plan(folder)
    prefix = "mtp.layers.0.mlp.experts."

    def stack(weights: dict[str, torch.Tensor]) -> None:
        matrices = [
            torch.stack([weights.pop(f"{prefix}{i}.{name}_proj.weight") for i in range(4)])
            for name in ("gate", "up", "down")
        ]
        weights[f"{prefix}gate_up_proj"] = torch.cat(matrices[:2], 1)
        weights[f"{prefix}down_proj"] = matrices[2]

    assert plan(edit_weights(folder, stack)).shapes == single.shapes
