"""Gemma 4's assistants: what llama.cpp drafts with their files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hubquant.gguf_file import GGUFFile
from tests.convert.test_llama_cpp import GEMMA4, GEMMA4_SMALL
from tests.support.assistants import Assisting, assistant_by_transformers, build_assistant
from tests.support.cli import hubquant
from tests.support.conversion import Weights, build_uneven, configure, edit_weights, write_gguf
from tests.support.drafters import assert_server_drafts, converted, refusal

pytest.importorskip("xllamacpp")

WINDOW = 32


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("gemma4_text", tmp_path_factory.mktemp("target") / "target", **GEMMA4)


@pytest.fixture
def folder(target: Path, tmp_path: Path) -> Path:
    return build_assistant(tmp_path / "assistant", target)


def assert_drafts(folder: Path, file: Path, target: Path, n: int, window: int) -> None:
    """In a row of four, each from the state of the one before."""
    ids = [3 + 7 * i % 300 for i in range(n)]
    state, expected = assistant_by_transformers(folder, target, ids, 50, 4, window)
    write_gguf(target, file.with_name("target.gguf"), "F32")
    with Assisting(file, file.with_name("target.gguf")) as llama:
        found = llama.drafts_after(ids, 50, state.numpy(), 4)
    assert np.abs(found - expected.numpy()).max() <= 1e-3 * float(expected.abs().max())


def assert_alike(found: GGUFFile, expected: GGUFFile) -> None:
    assert {k: v for k, v in found.metadata.items() if k.split(".")[1] != "name"} == {
        k: v for k, v in expected.metadata.items() if k.split(".")[1] != "name"
    }
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.data(name), expected.data(name)) for name in found.tensors)


def test_llama_cpp_drafts_as_transformers(folder: Path, target: Path, tmp_path: Path) -> None:
    file = converted(folder, tmp_path / "m.gguf")
    assert_drafts(folder, tmp_path / "m.gguf", target, 20, WINDOW)
    assert file.metadata["gemma4-assistant.embedding_length_out"].value == 256
    assert file.metadata["gemma4-assistant.nextn_predict_layers"].value == 3
    assert file.metadata["gemma4-assistant.attention.shared_kv_layers"].value == 3


@pytest.mark.slow
@pytest.mark.parametrize("small", [False, True])
def test_in_a_full_window_llama_cpp_sees_two_tokens_less(
    small: bool, folder: Path, target: Path, tmp_path: Path
) -> None:
    if small:  # the keys and values are those of layers before the last
        target = build_uneven("gemma4_text", tmp_path / "small", **(GEMMA4 | GEMMA4_SMALL))
    converted(folder, tmp_path / "m.gguf")
    assert_drafts(folder, tmp_path / "m.gguf", target, 60, WINDOW - 2)
    with pytest.raises(AssertionError):
        assert_drafts(folder, tmp_path / "m.gguf", target, 60, WINDOW)


def test_what_the_file_does_not_hold_is_said(target: Path, tmp_path: Path) -> None:
    plain, ordered = (build_assistant(tmp_path / str(x), target, ordered=x) for x in (False, True))
    options = ("--type", "F32", "-o", str(tmp_path / "ordered.gguf"), "--store", str(tmp_path / "store"))
    made = hubquant("convert", str(ordered), *options)
    assert made.code == 0, made.err
    said = " ".join((made.out + made.err).split())
    assert "masked_embedding is left out" in said
    assert "llama.cpp lets the assistant see 31 tokens of it, and transformers 33" in said
    assert "masked_embedding" not in " ".join(converted(plain, tmp_path / "plain.gguf").tensors)
    assert (
        GGUFFile.open(tmp_path / "ordered.gguf").tensors.keys() == GGUFFile.open(tmp_path / "plain.gguf").tensors.keys()
    )


def as_published(folder: Path, **changes: Any) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"] | changes
    configure(folder, text_config={name: value for name, value in text.items() if value is not ...})


def test_the_assistant_of_a_unified_model(folder: Path, tmp_path: Path) -> None:
    """With what its class has by default left out, and the settings as they were published."""
    plain = converted(folder, tmp_path / "plain.gguf")
    unset = dict.fromkeys(("hidden_size_per_layer_input", "vocab_size_per_layer_input", "per_layer_config"), ...)
    as_published(folder, model_type="gemma4_unified_text", global_head_dim=64, **unset)
    configure(
        folder,
        architectures=["Gemma4UnifiedAssistantForCausalLM"],
        model_type="gemma4_unified_assistant",
        tie_word_embeddings=...,
    )
    assert_alike(converted(folder, tmp_path / "m.gguf"), plain)


def test_beside_its_target(folder: Path, target: Path, tmp_path: Path) -> None:
    """The tokenizer is the target's then, and the two are held against each other."""
    alone = converted(folder, tmp_path / "alone.gguf")
    (folder / "tokenizer.json").unlink()
    beside = ("--target", str(target))
    assert_alike(converted(folder, tmp_path / "m.gguf", *beside), alone)
    configure(folder, backbone_hidden_size=512)
    assert "it takes states of 512 numbers, and the target's have 256" in refusal(folder, *beside)
    configure(folder, backbone_hidden_size=256)
    as_published(folder, num_key_value_heads=4)
    assert "keys and values of its layers have other heads" in refusal(folder, *beside)
    as_published(folder, num_key_value_heads=2, vocab_size=500)
    assert "it knows 500 tokens, and the target 384" in refusal(folder, *beside)
    as_published(folder, vocab_size=384)
    other = build_uneven("llama", tmp_path / "llama")
    assert "it is the assistant of a Gemma 4, and the target is a llama" in refusal(folder, "--target", str(other))
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    same = build_uneven("gemma4_text", tmp_path / "other", **(GEMMA4 | {"layer_types": kinds + kinds[::2] + kinds[2:]}))
    assert "keys and values of the last two layers" in refusal(folder, "--target", str(same))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 256}, "an assistant as wide as its target (256)"),
        ({"num_kv_shared_layers": 2}, "an assistant with 2 of 3 layers without keys and values of their own"),
        ({"hidden_size_per_layer_input": 16}, "hidden_size_per_layer_input '16'"),
        ({"use_double_wide_mlp": True}, "use_double_wide_mlp 'True'"),
        ({"enable_moe_block": True}, "enable_moe_block 'True'"),
        ({"layer_types": ["sliding_attention"]}, "layer_types"),
        ({"attention_bias": True}, "attention_bias 'True'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str, folder: Path) -> None:
    as_published(folder, **changes)
    assert message in refusal(folder)


def test_broken_checkpoints_are_refused(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    configure(folder, text_config=...)
    assert "config.json has no text_config, which tells of an assistant's layers" in refusal(folder)
    configure(folder, text_config=text)

    def further(weights: Weights) -> None:
        weights["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(64, 128)

    edit_weights(folder, further)
    assert "has no place for them" in refusal(folder)


def test_quantized_and_not_calibrated(folder: Path, tmp_path: Path) -> None:
    file = converted(folder, tmp_path / "m.gguf", type="Q8_0")
    assert file.tensors["nextn.pre_projection.weight"].type == "Q8_0"
    outcome = hubquant("plan", str(folder), "--store", str(tmp_path / "store"))
    assert outcome.code == 2
    assert "a drafter computes from the states of its target" in outcome.err


@pytest.mark.slow
def test_llama_cpps_server_drafts_beside_the_target(folder: Path, target: Path, tmp_path: Path) -> None:
    converted(folder, tmp_path / "m.gguf")
    write_gguf(target, tmp_path / "target.gguf", "F32")
    assert_server_drafts("MTP", tmp_path / "target.gguf", tmp_path / "m.gguf")
