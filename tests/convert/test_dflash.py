"""DFlash drafters: what llama.cpp drafts with their files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.conversion import Weights, build_uneven, configure, edit_weights, write_gguf
from tests.support.drafters import (
    DraftingBeside,
    assert_server_drafts,
    build_dflash,
    converted,
    dflash_by_formula,
    refusal,
)

pytest.importorskip("xllamacpp")

KINDS = ["sliding_attention", "full_attention"]
WINDOW = {"use_sliding_window": True, "sliding_window": 12, "layer_types": KINDS}
STATES = torch.randn(40, 3 * 256, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_uneven("qwen3", tmp_path_factory.mktemp("target") / "target", num_hidden_layers=6)


def assert_drafts(folder: Path, file: Path, other: Path | None = None, *, own: Weights, **how: Any) -> None:
    """A block as it is drafted: the last token, and masks behind it."""
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    ids = [50] + 7 * [config["vocab_size"] - 1]
    sections = how.pop("sections", False)
    expected = dflash_by_formula(own | weights, config, ids, STATES, **how).numpy()
    with DraftingBeside(file, other) as llama:
        found = llama.block(ids, STATES.numpy(), causal=how.get("causal", False), sections=sections)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("config", "how"),
    [({}, {}), ({"is_causal": True}, {"causal": True}), (WINDOW, {"windows": (12, None)})],
    ids=["plain", "causal", "windows"],
)
def test_llama_cpp_drafts_by_the_formula(
    config: dict[str, Any], how: dict[str, Any], target: Path, tmp_path: Path
) -> None:
    folder = build_dflash(tmp_path / "drafter", target, own=True, **config)
    metadata = converted(folder, tmp_path / "m.gguf", "--target", str(target)).metadata
    assert_drafts(folder, tmp_path / "m.gguf", own={}, **how)
    assert metadata["dflash.target_layers"].value == (1, 3, 5)
    assert metadata["dflash.block_size"].value == 8
    assert metadata["tokenizer.ggml.mask_token_id"].value == 383
    assert ("dflash.attention.causal" in metadata) == ("is_causal" in config)
    assert ("dflash.attention.sliding_window" in metadata) == ("sliding_window" in config)


def test_a_drafter_takes_what_it_lacks_of_its_target(target: Path, tmp_path: Path) -> None:
    folder = build_dflash(tmp_path / "drafter", target)
    file = converted(folder, tmp_path / "m.gguf", "--target", str(target))
    assert not {"output.weight", "token_embd.weight"} & file.tensors.keys()
    write_gguf(target, tmp_path / "target.gguf", "F32")
    theirs = load_file(target / "model.safetensors")
    own = {"embed_tokens.weight": theirs["model.embed_tokens.weight"], "lm_head.weight": theirs["lm_head.weight"]}
    assert_drafts(folder, tmp_path / "m.gguf", tmp_path / "target.gguf", own=own)


def test_older_checkpoints_do_not_name_the_layers(target: Path, tmp_path: Path) -> None:
    """They are spread over the target's, and the masked token and the size of a block stand outside the table."""
    folder = build_dflash(tmp_path / "drafter", target, mask_token_id=383)
    configure(folder, dflash_config=..., block_size=...)
    edit_weights(folder, lambda weights: weights.update({"fc.weight": weights["fc.weight"][:, :512].contiguous()}))
    metadata = converted(folder, tmp_path / "m.gguf", "--target", str(target)).metadata
    assert metadata["dflash.target_layers"].value == (2, 4)
    assert metadata["dflash.block_size"].value == 16
    configure(folder, num_hidden_layers=1)

    def one(weights: Weights) -> None:
        weights["fc.weight"] = weights["fc.weight"][:, :256].contiguous()
        for name in [name for name in weights if name.startswith("layers.1.")]:
            del weights[name]

    edit_weights(folder, one)
    metadata = converted(folder, tmp_path / "one.gguf", "--target", str(target)).metadata
    assert metadata["dflash.target_layers"].value == (4,)


@pytest.mark.slow
def test_for_a_target_with_sections(tmp_path: Path) -> None:
    """The positions of its tokens have four parts, of which time alone turns the drafter's heads."""
    target = build_uneven("qwen3_5_text", tmp_path / "target", num_hidden_layers=6)
    rope = json.loads((target / "config.json").read_text())["rope_parameters"]
    configure(target, rope_parameters={**rope, "mrope_section": [3, 3, 2]})
    folder = build_dflash(tmp_path / "drafter", target, own=True)
    metadata = converted(folder, tmp_path / "m.gguf", "--target", str(target)).metadata
    assert metadata["dflash.rope.dimension_sections"].value == (16, 0, 0, 0)
    assert_drafts(folder, tmp_path / "m.gguf", own={}, sections=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dflash_config": {"mask_token_id": 383, "conv_kernel_size": 4}}, "conv_kernel_size in dflash_config"),
        ({"dflash_config": {"mask_token_id": 384}}, "mask_token_id is 384"),
        (
            {"dflash_config": {"mask_token_id": 3, "target_layer_ids": [0, 2, 6]}},
            "layers 0, 2, 6, and the target has 6",
        ),
        ({"dflash_config": {"mask_token_id": 3, "target_layer_ids": ["a"]}}, "target_layer_ids is ['a']"),
        ({"dflash_config": [1]}, "dflash_config in config.json is no table of settings"),
        ({"block_size": 1}, "block_size in config.json is 1: it must be a whole number from 2"),
        ({"hidden_size": 128}, "it takes states of 128 numbers, and the target's have 256"),
        ({"vocab_size": 500}, "it knows 500 tokens, and the target 384"),
        ({"rope_is_neox_style": False}, "rope_is_neox_style"),
        ({"use_sliding_window": True, "sliding_window": 12, "layer_types": KINDS[:1]}, "layer_types"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str, target: Path, tmp_path: Path) -> None:
    folder = build_dflash(tmp_path / "drafter", target, **changes)
    assert message in refusal(folder, "--target", str(target))


def test_broken_checkpoints_are_refused(target: Path, tmp_path: Path) -> None:
    folder = build_dflash(tmp_path / "drafter", target)
    assert "name it: hubquant convert DRAFTER --target MODEL" in refusal(folder)
    edit_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.zeros(384, 256)}))
    assert "has no place for them" in refusal(folder, "--target", str(target))


@pytest.mark.slow
def test_llama_cpps_server_drafts_beside_the_target(target: Path, tmp_path: Path) -> None:
    folder = build_dflash(tmp_path / "drafter", target)
    converted(folder, tmp_path / "m.gguf", "--target", str(target), type="Q8_0")
    write_gguf(target, tmp_path / "target.gguf", "F32")
    assert_server_drafts("DFLASH", tmp_path / "target.gguf", tmp_path / "m.gguf")
