"""EAGLE-3 drafters: what llama.cpp drafts with their files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hubquant.gguf_file import GGUFFile
from hubquant.recipe.schema import ModelReference
from hubquant.sources.open import open_source
from tests.support.cli import hubquant
from tests.support.conversion import build_uneven, configure, edit_weights, write_gguf
from tests.support.drafters import (
    N_DRAFT,
    DraftingBeside,
    assert_server_drafts,
    build_eagle3,
    converted,
    drafts_by_formula,
    refusal,
)
from tests.support.localhub import LocalHub

pytest.importorskip("xllamacpp")

IDS = list(range(3, 43))
ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {"rope_scaling": {**ROPE, "original_max_position_embeddings": 128}, "rope_theta": 5e5}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("llama", tmp_path_factory.mktemp("target") / "target", num_hidden_layers=6)


def converted_for(target: Path, folder: Path, file: Path) -> GGUFFile:
    return converted(folder, file, "--target", str(target))


def states() -> torch.Tensor:
    return torch.randn(len(IDS), 3 * 256, generator=torch.Generator().manual_seed(3))


def assert_drafts(folder: Path, file: Path) -> None:
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    expected = drafts_by_formula(weights, config, IDS, states()).numpy()
    with DraftingBeside(file) as llama:
        found = llama.drafts(IDS, states().numpy())
    ids = (weights["d2t"] + torch.arange(N_DRAFT)).numpy()
    assert np.abs(found[:, ids] - expected).max() <= 1e-4 * np.abs(expected).max()
    others = np.delete(found, ids, axis=1)
    assert np.isneginf(others).all()


@pytest.mark.parametrize(
    "config", [{}, {"norm_before_residual": True, "norm_before_fc": True, **LLAMA3}], ids=["plain", "norms and llama3"]
)
def test_llama_cpp_drafts_by_the_formula(config: dict[str, Any], target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target, **config)
    file = converted_for(target, folder, tmp_path / "m.gguf")
    assert_drafts(folder, tmp_path / "m.gguf")
    metadata = file.metadata
    assert metadata["eagle3.target_layers"].value == (2, 3, 3)
    assert metadata["eagle3.target_hidden_size"].value == 256
    assert metadata["eagle3.norm_before_fc"].value is bool(config)
    assert ("rope_freqs.weight" in file.tensors) == ("enc.output_norm.weight" in file.tensors) == bool(config)
    assert file.tensors["d2t"].type == "I64"
    tokens = metadata["tokenizer.ggml.tokens"].value
    assert isinstance(tokens, tuple)
    assert len(tokens) == json.loads((target / "config.json").read_text())["vocab_size"]


def test_a_drafter_takes_what_it_lacks_of_its_target(target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target, own=False)
    file = converted_for(target, folder, tmp_path / "m.gguf")
    assert not {"d2t", "output.weight", "token_embd.weight"} & file.tensors.keys()
    write_gguf(target, tmp_path / "target.gguf", "F32")
    theirs, weights = load_file(target / "model.safetensors"), load_file(folder / "model.safetensors")
    own = {"embed_tokens.weight": theirs["model.embed_tokens.weight"], "lm_head.weight": theirs["lm_head.weight"]}
    config = json.loads((folder / "config.json").read_text())
    expected = drafts_by_formula(weights | own, config, IDS, states()).numpy()
    with DraftingBeside(tmp_path / "m.gguf", tmp_path / "target.gguf") as llama:
        found = llama.drafts(IDS, states().numpy())
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_speculators_checkpoint(target: Path, tmp_path: Path) -> None:
    """The layer's settings in a table, its tensors by other names."""
    plain = build_eagle3(tmp_path / "plain", target, norm_before_residual=True)
    folder = build_eagle3(tmp_path / "drafter", target, prefix="layers.0.", norm_before_residual=True)
    config = json.loads((folder / "config.json").read_text())
    outside = ("draft_vocab_size", "norm_before_residual", "tie_word_embeddings")
    own = {name: config.pop(name) for name in outside}
    own |= {"architectures": ["Eagle3Speculator"], "transformer_layer_config": config, "model_type": "speculator"}
    own |= {"eagle_aux_hidden_state_layer_ids": [1, 2, 4]}
    (folder / "config.json").write_text(json.dumps(own))
    file = converted_for(target, folder, tmp_path / "m.gguf")
    assert file.metadata["eagle3.target_layers"].value == (1, 2, 4)
    assert_drafts(plain, tmp_path / "m.gguf")


def test_quantized_drafters_keep_the_table_of_tokens(target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target)
    made = hubquant(
        *("quantize", str(folder), "--target", str(target), "--type", "Q4_K_M,F16", "--out", str(tmp_path)),
        *("--store", str(tmp_path / "store")),
    )
    assert made.code == 0, made.err
    weights = load_file(folder / "model.safetensors")
    for type in ("Q4_K_M", "F16"):
        file = GGUFFile.open(tmp_path / f"drafter-{type}.gguf")
        ids = file.data("d2t").view(torch.int64)[0]
        assert torch.equal(ids, weights["d2t"] + torch.arange(N_DRAFT))
        assert file.tensors["fc.weight"].type == ("Q4_K" if type == "Q4_K_M" else type)
        with DraftingBeside(tmp_path / f"drafter-{type}.gguf") as llama:
            assert np.isfinite(llama.drafts(IDS, states().numpy())[:, ids.numpy()]).all()


@pytest.mark.slow
def test_pickled_drafters(target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    other = build_eagle3(tmp_path / "other", target)
    (folder / "model.safetensors").unlink()
    converted_for(target, other, tmp_path / "m.gguf")
    made = hubquant(
        *("convert", str(folder), "--target", str(target), "--type", "F32", "-o", str(tmp_path / "p.gguf")),
        *("--allow-pickle", "--store", str(tmp_path / "store")),
    )
    assert made.code == 0, made.err
    first, second = GGUFFile.open(tmp_path / "m.gguf"), GGUFFile.open(tmp_path / "p.gguf")
    assert all(torch.equal(first.data(name), second.data(name)) for name in first.tensors)


def test_what_cannot_be_is_refused(target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target)
    weights = load_file(folder / "model.safetensors")

    beside = ("--target", str(target))
    assert "name it: hubquant convert DRAFTER --target MODEL" in refusal(folder)
    assert "is no drafter" in refusal(target, *beside)
    assert "LlamaForCausalLMEagle3" in refusal(target, *beside)
    configure(folder, eagle_config={"use_mtp_layernorm": True})
    assert "eagle_config" in refusal(folder, *beside)
    configure(folder, eagle_config=..., num_hidden_layers=2)
    assert "EAGLE-3 with 2 layers" in refusal(folder, *beside)
    configure(folder, num_hidden_layers=1, eagle_aux_hidden_state_layer_ids=[1, 2])
    assert "EAGLE-3 with the states of 2 layers" in refusal(folder, *beside)
    configure(folder, eagle_aux_hidden_state_layer_ids=[1, 2, 9])
    assert "the target has 6" in refusal(folder, *beside)
    configure(folder, eagle_aux_hidden_state_layer_ids=..., target_hidden_size=512)
    assert "it takes states of 512 numbers, and the target's have 256" in refusal(folder, *beside)
    configure(folder, target_hidden_size=..., vocab_size=500)
    assert "it knows 500 tokens" in refusal(folder, *beside)
    configure(folder, vocab_size=json.loads((target / "config.json").read_text())["vocab_size"])
    edit_weights(folder, lambda tensors: tensors.update(d2t=weights["d2t"] - 10_000))
    assert "d2t is no table of the target's tokens" in refusal(folder, *beside)
    edit_weights(folder, lambda tensors: tensors.update(d2t=-torch.arange(N_DRAFT)))
    assert "99 come twice" in refusal(folder, *beside)
    save_file({**weights, "layers.1.mlp.up_proj.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    assert "has no place for them" in refusal(folder, *beside)
    save_file({k: x for k, x in weights.items() if k != "lm_head.weight"}, folder / "model.safetensors")


def test_both_on_the_hub(target: Path, hub: LocalHub, tmp_path: Path) -> None:
    """Of the target no weights are downloaded."""
    folder = build_eagle3(tmp_path / "drafter", target)
    hub.add("org/target", target)
    hub.add("me/drafter", folder)
    source = open_source(ModelReference(id="me/drafter", target="org/target"))
    assert source.download_bytes == (folder / "model.safetensors").stat().st_size
    commits = [hub.repository(id).head for id in ("org/target", "me/drafter")]
    reference = source.reference(None)
    assert reference
    assert (reference.target, reference.revision) == (f"org/target@{commits[0]}", commits[1])
    assert open_source(reference).identity == source.identity
    made = hubquant(
        *("convert", "me/drafter", "--target", "org/target", "--type", "F32", "-o", str(tmp_path / "m.gguf")),
        *("--store", str(tmp_path / "store")),
    )
    assert made.code == 0, made.err
    assert_drafts(folder, tmp_path / "m.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_llama_cpps_server_drafts_beside_the_target(own: bool, target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target, own=own)
    converted_for(target, folder, tmp_path / "drafter.gguf")
    write_gguf(target, tmp_path / "target.gguf", "F32")
    assert_server_drafts("EAGLE3", tmp_path / "target.gguf", tmp_path / "drafter.gguf")


def test_a_drafter_is_not_calibrated(target: Path, tmp_path: Path) -> None:
    folder = build_eagle3(tmp_path / "drafter", target)
    options = ("--set", f"model.target={target}", "--store", str(tmp_path / "store"))
    outcome = hubquant("plan", str(folder), *options)
    assert outcome.code == 2
    assert "a drafter computes from the states of its target" in outcome.err
