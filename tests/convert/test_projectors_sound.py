"""Files of projectors for sound: llama.cpp makes the same embeddings of one as transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRFeatureExtractor, WhisperFeatureExtractor

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.projectors.conversion import plan_projector, projector_of
from hubquant.errors import NotSupportedYet
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_projectors import tensors, write_projector
from tests.support.conversion import assert_same, relative_error, write_gguf
from tests.support.llamacpp import F32
from tests.support.mtmd import Multimodal
from tests.support.multimodal import auto_class, build_multimodal, describe, rename

RATE = 16000
MODELS: dict[str, tuple[tuple[str, str, str], dict[str, Any]]] = {
    "qwen2_audio": (("qwen2_audio", "qwen2", "qwen2_audio_encoder"), {}),
    "audioflamingo3": (("audioflamingo3", "qwen2", "audioflamingo3_encoder"), {}),
}
SEEN = {"max_source_positions": 1500, "num_mel_bins": 80, "intermediate_size": 128, "encoder_ffn_dim": 128}


OLDER = {
    "qwen2_audio": (
        ("model.audio_tower.", "audio_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ),
}
"""Names that the same tensors had in checkpoints of other versions of transformers."""
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("qwen2_audio", {"seeing": {"max_source_positions": 3000}}, "max_source_positions 3000"),
    ("qwen2_audio", {"seeing": {"activation_function": "relu"}}, "activation_function 'relu'"),
    ("qwen2_audio", {"seeing": {"scale_embedding": True}}, "scale_embedding"),
    ("audioflamingo3", {"whole": {"projector_bias": False}}, "projector_bias false"),
    ("audioflamingo3", {"whole": {"projector_hidden_act": "relu"}}, "projector_hidden_act 'relu'"),
]
"""Settings that llama.cpp does not compute."""


def build(name: str, folder: Path, **seen: int) -> Path:
    families, settings = MODELS[name]
    build_multimodal(*families, folder, seeing=SEEN | seen, **settings)
    (folder / "preprocessor_config.json").write_text(json.dumps(spectrum().to_dict()))
    return folder


def spectrum() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=SEEN["num_mel_bins"])


def a_sound(seconds: float) -> F32:
    """Noise with a tone that rises, at 16 kHz."""
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(t.size) * 0.02
    return (0.3 * np.sin(2 * np.pi * (200 + 50 * t) * t) + noise).astype(np.float32)


def embeddings(model: Any, sound: F32) -> torch.Tensor:
    """Of transformers, float32 [n, width], of a sound with the silence behind it."""
    features = spectrum()(sound, sampling_rate=RATE, return_tensors="pt").input_features
    mask = torch.ones(features.shape[0], features.shape[-1])
    with torch.no_grad():
        states = model.model.audio_tower(features, input_features_mask=mask).last_hidden_state
        found: torch.Tensor = model.model.multi_modal_projector(states)
    return found.reshape(-1, found.shape[-1])


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_hears_what_transformers_hears(name: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build(name, tmp_path / "model")
    sound = a_sound(20)
    model = auto_class(MODELS[name][0][0]).from_pretrained(folder, dtype=torch.float32)
    expected = embeddings(model, sound)
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        (found,) = llama.hear(sound, expected.shape[-1])
    assert relative_error(torch.from_numpy(found), expected) <= 1e-4


@pytest.mark.parametrize("name", OLDER)
def test_names_of_other_versions_are_the_same_encoder(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / "model")
    expected = tensors(folder)
    assert_same(tensors(rename(folder, *OLDER[name])), expected)


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_llama_cpp_does_not_compute(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    families, settings = MODELS[name]
    seeing = {"seeing": SEEN | changes.get("seeing", {}), "whole": changes.get("whole", {})}
    described = describe(*families, **(settings | seeing))
    config = described.to_dict() | {"architectures": [auto_class(families[0])._model_mapping[type(described)].__name__]}
    projector = projector_of(config)
    assert projector is not None
    with pytest.raises(NotSupportedYet, match=re.escape(message)):
        plan_projector(projector, config, tmp_path, Checkpoint({}, {}, tmp_path))


def test_another_spectrum(tmp_path: Path) -> None:
    folder = build("qwen2_audio", tmp_path / "model")
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"hop_length": 320}}))
    with pytest.raises(NotSupportedYet, match="hop_length 320"):
        needed_projector(open_folder(folder, "tiny")).conversion()


@pytest.mark.parametrize(
    ("families", "reason"),
    [
        (("voxtral", "llama", "voxtral_encoder"), "averages pairs of an encoder's states"),
        (("glmasr", "llama", "glmasr_encoder"), "adds learned places"),
    ],
)
def test_what_llama_cpp_hears_otherwise(families: tuple[str, str, str], reason: str, tmp_path: Path) -> None:
    source = open_folder(build_multimodal(*families, tmp_path, seeing=SEEN), "tiny")
    with pytest.raises(NotSupportedYet, match=reason) as caught:
        needed_projector(source)
    assert caught.value.hint == "convert its language model without one"


SECONDS = {
    "num_mel_bins": 80,
    "encoder_ffn_dim": 128,
    "intermediate_size": 128,
    "output_dim": 256,
    "downsample_hidden_size": 16,
    "max_position_embeddings": 13,
    "initializer_range": 0.3,
}
"""Of Qwen3-ASR's encoder."""


def build_seconds(folder: Path, **seen: int) -> Path:
    build_multimodal("qwen3_asr", "qwen3", "qwen3_asr_encoder", folder, seeing=SECONDS | seen)
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "hop_length": 160}))
    return folder


def test_seconds_are_heard_in_windows_of_eight(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build_seconds(tmp_path / "model")
    sound = a_sound(9.995)  # of 1000 frames, which are ten whole seconds
    spectrum = Qwen3ASRFeatureExtractor(feature_size=80)(sound, sampling_rate=RATE, return_tensors="pt")
    features = spectrum["input_features"][..., :1000]
    model: Any = auto_class("qwen3_asr").from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = model.get_audio_features(features, torch.ones(1, 1000, dtype=torch.long)).pooler_output
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        found = llama.hear(sound, expected.shape[-1])
    assert [len(part) for part in found] == [104, 26]
    assert relative_error(torch.from_numpy(np.concatenate(found)), expected) <= 2e-3


def test_other_windows_of_seconds(tmp_path: Path) -> None:
    folder = build_seconds(tmp_path, n_window_infer=400)
    with pytest.raises(NotSupportedYet, match="n_window_infer 400"):
        needed_projector(open_folder(folder, "tiny")).conversion()
