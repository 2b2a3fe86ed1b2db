"""Multimodal checkpoints, of which the language model is converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMultimodalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import hubquant
from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.plain import plain_checkpoint
from hubquant.convert.restore import load_model, read_state_dict
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file import GGUFFile
from hubquant.imatrix import load_imatrix
from hubquant.models import identify
from hubquant.models.tiny import qwen2_tokenizer
from hubquant.sources.checkpoint import load_folder
from tests.convert.test_llama_cpp import (
    DELTA_NET,
    GEMMA3,
    GEMMA4,
    GLM_EXPERTS,
    GRANITE,
    GROUPS,
    LATENT,
    LFM2,
    LLAMA4,
    MINIMAX_M3,
    MISTRAL4,
    MROPE,
    QWEN_EXPERTS,
    WHOLE,
)
from tests.support.conversion import Weights, configure, edit_weights, plan, relative_error, uneven, write_gguf
from tests.support.llamacpp import LlamaCpp
from tests.support.multimodal import SIZES, VISION, build_multimodal, rename

IDS = torch.randint(3, 380, (160,), generator=torch.Generator().manual_seed(0)).tolist()
GRANITE_IN_SPEECH = GRANITE | {"logits_scaling": 1.0}  # transformers leaves it out there
MODELS: dict[str, tuple[tuple[str, str, str], dict[str, Any], str]] = {
    "gemma3": (("gemma3", "gemma3_text", "siglip_vision_model"), GEMMA3 | {"tied": True}, "gemma3"),
    "mistral3": (("mistral3", "mistral", "pixtral"), {}, "llama"),
    "mistral3, tied": (("mistral3", "mistral", "pixtral"), {"tied": True}, "llama"),
    "mistral3 with mistral4": (("mistral3", "mistral4", "pixtral"), MISTRAL4, "mistral4"),
    "llava": (("llava", "llama", "clip_vision_model"), {}, "llama"),
    "llava with qwen2": (("llava", "qwen2", "clip_vision_model"), {}, "qwen2"),
    "gemma4": (("gemma4", "gemma4_text", "gemma4_vision"), GEMMA4 | {"tied": True, "pad_token_id": 0}, "gemma4"),
    "gemma4_unified": (
        ("gemma4_unified", "gemma4_unified_text", "gemma4_unified_vision"),
        {name: value for name, value in GEMMA4.items() if name != "hidden_size_per_layer_input"}
        | {"tied": True, "pad_token_id": 0, "use_bidirectional_attention": None},
        "gemma4",
    ),
    "llama4": (("llama4", "llama4_text", "llama4_vision_model"), LLAMA4, "llama4"),
    "qwen3_5": (("qwen3_5", "qwen3_5_text", "qwen3_5_vision"), DELTA_NET | {"rope_parameters": MROPE}, "qwen35"),
    "qwen3_5_moe": (
        ("qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_moe_vision"),
        DELTA_NET | QWEN_EXPERTS | {"rope_parameters": MROPE, "shared_expert_intermediate_size": 96},
        "qwen35moe",
    ),
    "exaone4_5": (("exaone4_5", "exaone4", "exaone4_5_vision"), WHOLE, "exaone4"),
    "janus": (("janus", "llama", "janus_vision_model"), {}, "llama"),
    "internvl": (("internvl", "qwen2", "internvl_vision"), {}, "qwen2"),
    "idefics3": (("idefics3", "llama", "idefics3_vision"), {}, "llama"),
    "smolvlm": (("smolvlm", "llama", "smolvlm_vision"), {}, "llama"),
    "kimi_k25": (
        ("kimi_k25", "deepseek_v3", "kimi_k25_vision"),
        LATENT | GROUPS | {"whole": {"projection_hidden_size": 32}},
        "deepseek2",
    ),
    "lfm2_vl": (("lfm2_vl", "lfm2", "siglip2_vision_model"), LFM2 | {"tied": True}, "lfm2"),
    "minicpmv4_6": (
        ("minicpmv4_6", "qwen3_5_text", "minicpmv4_6_vision"),
        DELTA_NET | {"rope_parameters": MROPE},
        "qwen35",
    ),
    "qwen3_asr": (("qwen3_asr", "qwen3", "qwen3_asr_encoder"), {}, "qwen3"),
    "granite_speech": (("granite_speech", "granite", "granite_speech_encoder"), GRANITE_IN_SPEECH, "granite"),
    "granite_speech_plus": (
        ("granite_speech_plus", "granite", "granite_speech_plus_encoder"),
        GRANITE_IN_SPEECH,
        "granite",
    ),
    "minimax_m3_vl": (("minimax_m3_vl", "minimax_m3_vl_text", "minimax_m3_vl_vision"), MINIMAX_M3, "minimax-m3"),
    "voxtral": (("voxtral", "llama", "voxtral_encoder"), {}, "llama"),
    "qwen2_audio": (("qwen2_audio", "qwen2", "qwen2_audio_encoder"), {}, "qwen2"),
}
WITH_OTHERS = (
    "llama4",
    "qwen3_5_moe",
    "mistral3 with mistral4",
    "kimi_k25",
    "minimax_m3_vl",
)  # experts that are no linear layers
OLDER = ("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")


def build(name: str, folder: Path) -> Path:
    towers, settings, _ = MODELS[name]
    return build_multimodal(*towers, folder, **settings)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=torch.tensor([IDS])).logits[0]
    return result


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "speech" in name else ()) for name in MODELS]
)
def test_logits_equal_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build(name, tmp_path / "model")
    whole = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    expected = logits(whole)
    conversion = write_gguf(folder, tmp_path / "model.gguf", "F32")
    assert conversion.architecture == MODELS[name][2]
    with LlamaCpp(tmp_path / "model.gguf") as llama:
        found = torch.from_numpy(llama.logits(IDS))
    assert relative_error(found, expected) <= 1e-3
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    assert relative_error(logits(load_model(tmp_path / "model.gguf")), expected) <= 1e-4

    model = load_folder(folder, "cpu")
    assert torch.equal(logits(model), expected)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    linear -= {name for name in linear if name.endswith("kv_b_proj")}  # whose inputs attention tells
    tapped = {tap.module for tap in conversion.taps.values()}
    assert tapped > linear if name in WITH_OTHERS else tapped == linear


@pytest.mark.parametrize("name", ["gemma3", "mistral3"])
def test_other_names_are_the_same_model(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path)
    expected, shapes = logits(load_folder(folder, "cpu")), plan(folder).shapes
    rename(folder, *OLDER)
    assert plan(folder).shapes == shapes
    assert torch.equal(logits(load_folder(folder, "cpu")), expected)


def test_a_run_measures_the_language_model(tmp_path: Path) -> None:
    folder = build("gemma3", tmp_path / "tiny-gemma3")
    overrides = ["calibration.chunk_size=64", "calibration.chunks=4", "evaluate.chunk_size=64", "evaluate.chunks=3"]
    overrides += ["quantize.types=[Q8_0,Q4_K_M]", "quantize.mode=exact"]
    made = hubquant.plan(str(folder), overrides=overrides, out=tmp_path / "out")
    assert any("only the language model is converted" in note for note in made.notes)
    report = hubquant.run(str(folder), overrides=overrides, out=tmp_path / "out")
    klds = [file.measured.divergence.kld.mean for file in report.files if file.measured.divergence]
    assert 0 < klds[0] < klds[1]
    entries = load_imatrix(tmp_path / "out" / "imatrix.gguf").entries
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
    with pytest.raises(CheckpointError, match=r"1 tensor is missing: lm_head\.weight"):
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


EXPERTS = QWEN_EXPERTS | {"num_local_experts": 4}
SEEING: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen2_vl": ("qwen2", "qwen2vl", {"rms_norm_eps": 1e-12}),  # llama.cpp takes none
    "qwen2_5_vl": ("qwen2", "qwen2vl", {"rms_norm_eps": 1e-12}),
    "qwen3_vl": ("qwen3", "qwen3vl", {}),
    "qwen3_vl_moe": ("qwen3_moe", "qwen3vlmoe", EXPERTS),
    "glm4v": ("glm4", "glm4", {}),
    "glm4v_moe": ("glm4_moe", "glm4moe", GLM_EXPERTS),
    "glm_ocr": ("glm4", "glm4", {}),
    "hunyuan_vl": ("hunyuan_v1_dense", "hunyuan_vl", {}),
    "paddleocr_vl": ("llama", "paddleocr", {}),
}
"""By family: the language model that it is in text, llama.cpp's name, and settings."""


ALWAYS_TIED = ("hunyuan_vl", "paddleocr_vl")


def build_seeing(family: str, folder: Path, tied: bool) -> Path:
    tokenizer = qwen2_tokenizer()
    sections = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 8, 8]}
    if family.startswith("qwen3"):  # evenly, because llama.cpp turns the last pairs of longer sections by 0
        sections |= {"mrope_section": [11, 11, 10], "mrope_interleaved": True}
    if family.startswith("glm"):
        sections |= {"mrope_section": [8, 4, 4], "partial_rotary_factor": 0.5}
    ids = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    text = {**SIZES, **SEEING[family][2], "vocab_size": len(tokenizer), **ids}
    whole = AutoConfig.for_model(
        family, text_config={**text, "rope_parameters": sections}, vision_config=VISION, tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    AutoModelForMultimodalLM.from_config(whole).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return edit_weights(edit_weights(folder, uneven), as_published)


def as_published(weights: Weights) -> None:
    """transformers reads stacks of experts in both orders and writes the other one."""
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        weights[name] = weights[name].transpose(1, 2).contiguous()


def flat(folder: Path) -> Path:
    """As Qwen2-VL was published: the language model's settings at the top, and its names without a prefix."""
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    text = {
        name: text[name]
        for name in (*SIZES, "vocab_size", "eos_token_id", "rms_norm_eps")
        if name in text and name != "head_dim"
    }
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 8, 8]}}
    (folder / "config.json").write_text(json.dumps(config | text | rope))
    return rename(folder, ("model.language_model.", "model."), ("model.visual.", "visual."))


@pytest.mark.parametrize(
    ("family", "tied"),
    [
        (family, tied)
        for family in SEEING
        for tied in (False, True)
        if family.startswith("qwen") or tied == (family in ALWAYS_TIED)
    ],
)
def test_what_sees_has_one_position_for_each_token_of_text(family: str, tied: bool, tmp_path: Path) -> None:
    folder = build_seeing(family, tmp_path / "model", tied)
    whole = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    expected = logits(whole)
    conversion = plan(folder)
    kind, name, _ = SEEING[family]
    assert conversion.architecture == name
    sections = conversion.metadata.get(f"{name}.rope.dimension_sections")
    assert sections is not None
    assert ("output.weight" in conversion.shapes) is not tied
    assert relative_error(logits(load_folder(folder, "cpu")), expected) <= 1e-5
    assert identify(folder).model_class == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    if family.startswith("qwen2"):
        assert plan(flat(folder)).metadata == conversion.metadata
        assert relative_error(logits(load_folder(folder, "cpu")), expected) <= 1e-5
    file = tmp_path / "model.gguf"
    write_gguf(folder, file, "F32")
    assert relative_error(logits(load_model(file)), expected) <= 1e-4
    with LlamaCpp(file) as llama:
        assert relative_error(torch.from_numpy(llama.logits(IDS)), expected) <= 1e-3
    source = {name: x for name, x in plain_weights(folder).items() if tied is False or "lm_head" not in name}
    found = dict(read_state_dict(GGUFFile.open(file)))
    assert found.keys() == source.keys()
    assert all(torch.equal(found[name], x) for name, x in source.items())


def plain_weights(folder: Path) -> dict[str, torch.Tensor]:
    plain = plain_checkpoint(Checkpoint.from_folder(folder))
    return {name: plain.read(name) for name in plain.tensors}


def test_internvls_language_model(tmp_path: Path) -> None:
    folder = build("llava with qwen2", tmp_path / "model")
    expected = logits(load_folder(folder, "cpu"))
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config") | {"architectures": ["Qwen2ForCausalLM"]}
    code = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "auto_map": {"AutoConfig": "a.B"}}
    (folder / "config.json").write_text(json.dumps(config | code | {"llm_config": text}))
    rename(folder, ("lm_head.", "language_model.lm_head."), ("model.language_model.", "language_model.model."))
    assert plan(folder).architecture == "qwen2"
    assert identify(folder).model_class == "Qwen2ForCausalLM"
    assert torch.equal(logits(load_folder(folder, "cpu")), expected)
    configure(folder, llm_config=text | {"model_type": "internlm", "architectures": ["InternLMForCausalLM"]})
    with pytest.raises(NotSupportedYet, match="internlm"):
        plan(folder)
