"""Multimodal checkpoints, of which the language model is converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import hubquant
from hubquant.convert.restore import load_model
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.imatrix import ImportanceMatrix
from hubquant.models import identify, load
from tests.support.conversion import edit_weights, plan, write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.multimodal import build_multimodal, rename

IDS = torch.randint(3, 380, (160,), generator=torch.Generator().manual_seed(0)).tolist()
GEMMA3 = {
    "num_hidden_layers": 7,
    "sliding_window": 32,
    "query_pre_attn_scalar": 64,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    },
}
MODELS: dict[str, tuple[tuple[str, str, str], dict[str, Any], str]] = {
    "gemma3": (("gemma3", "gemma3_text", "siglip_vision_model"), GEMMA3 | {"tied": True}, "gemma3"),
    "mistral3": (("mistral3", "mistral", "pixtral"), {}, "llama"),
    "mistral3, tied": (("mistral3", "mistral", "pixtral"), {"tied": True}, "llama"),
    "llava": (("llava", "llama", "clip_vision_model"), {}, "llama"),
    "llava with qwen2": (("llava", "qwen2", "clip_vision_model"), {}, "qwen2"),
}
OLDER = ("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")


def build(name: str, folder: Path) -> Path:
    towers, settings, _ = MODELS[name]
    return build_multimodal(*towers, folder, **settings)


def configure(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.tensor([IDS])).logits[0]
    return result


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build(name, tmp_path / "model")
    whole = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    expected = logits(whole)
    conversion = write_gguf(folder, tmp_path / "model.gguf", "F32")
    assert conversion.architecture == MODELS[name][2]
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        found = torch.from_numpy(llama.logits(IDS))
    assert relative_error(found, expected) <= 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert relative_error(logits(load_model(tmp_path / "model.gguf")), expected) <= 1e-4

    model = load(folder, "cpu")
    assert torch.equal(logits(model), expected)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {tap.module for tap in conversion.taps.values()} == linear


@pytest.mark.parametrize("name", ["gemma3", "mistral3"])
def test_other_names_are_the_same_model(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    expected, shapes = logits(load(folder, "cpu")), plan(folder).shapes
    rename(folder, *OLDER)
    assert plan(folder).shapes == shapes
    assert torch.equal(logits(load(folder, "cpu")), expected)


def test_a_run_measures_the_language_model(tmp_path: Path) -> None:
    folder = build("gemma3", tmp_path / "tiny-gemma3")
    overrides = ["calibration.chunk_size=64", "calibration.chunks=4", "evaluate.chunk_size=64", "evaluate.chunks=3"]
    overrides += ["quantize.types=[Q8_0,Q4_K_M]", "quantize.mode=exact"]
    made = hubquant.plan(str(folder), overrides=overrides, out=tmp_path / "out")
    assert any("only the language model is converted" in note for note in made.notes)
    report = hubquant.run(str(folder), overrides=overrides, out=tmp_path / "out")
    klds = [file.measured.divergence.kld.mean for file in report.files if file.measured.divergence]
    assert 0 < klds[0] < klds[1]
    entries = ImportanceMatrix.load(tmp_path / "out" / "imatrix.gguf").entries
    assert len(entries) == 7 * 7
    assert "blk.6.ffn_down.weight" in entries


def test_identity_is_the_language_models(tmp_path: Path) -> None:
    identity = identify(build("gemma3", tmp_path))
    assert (identity.task, identity.model_class) == ("text-generation", "Gemma3ForCausalLM")


def test_settings_for_tying_may_contradict_each_other(tmp_path: Path) -> None:
    folder = build("mistral3", tmp_path)
    assert "output.weight" in plan(configure(folder, tie_word_embeddings=True)).shapes
    edit_weights(folder, lambda weights: weights.pop("language_model.lm_head.weight"))
    assert "output.weight" not in plan(folder).shapes
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: lm_head\.weight"):
        plan(configure(folder, tie_word_embeddings=False))


def test_language_models_that_cannot_be_converted(tmp_path: Path) -> None:
    folder = build("llava", tmp_path)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    with pytest.raises(NotSupportedYet, match="'blip_text_model'"):
        plan(configure(folder, text_config=text | {"model_type": "blip_text_model"}))
    with pytest.raises(NotSupportedYet, match="blip_text_model"):
        identify(folder)
    with pytest.raises(CheckpointError, match=r"text_config in config\.json names no model_type"):
        plan(configure(folder, text_config={"hidden_size": 64}))
