"""Gemma 4 sees and hears with one file: llama.cpp makes the same embeddings of a sound as transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, Gemma4AudioFeatureExtractor

from hubquant.errors import NotSupportedYet
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_projectors import GEMMA4_HEARING, MODELS, build, write_projector
from tests.convert.test_projectors_sound import RATE, a_sound
from tests.support.conversion import configure, relative_error, write_gguf
from tests.support.mtmd import Multimodal

NAME = "gemma4, with sound"
PIECE = 640  # samples of what becomes one embedding without an encoder


def test_llama_cpp_hears_what_transformers_hears(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build(NAME, tmp_path / "model")
    sound = a_sound(2.5)
    model: Any = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    heard = Gemma4AudioFeatureExtractor()([sound], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        features = model.model.get_audio_features(heard["input_features"], heard["input_features_mask"]).pooler_output
    expected = features.reshape(-1, features.shape[-1])
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        (found,) = llama.hear(sound, expected.shape[-1])
        (seen,) = llama.see(np.zeros((*MODELS[NAME][3], 3), np.uint8), expected.shape[-1])
    assert len(seen) == 80
    assert relative_error(torch.from_numpy(found), expected) <= 2e-3


def test_llama_cpp_hears_without_an_encoder(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build("gemma4_unified", tmp_path / "model")
    sound = a_sound(2.5)
    model: Any = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    pieces = torch.from_numpy(np.pad(sound, (0, -len(sound) % PIECE))).reshape(1, -1, PIECE)
    with torch.no_grad():
        (expected,) = model.model.get_audio_features(pieces).pooler_output
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        (found,) = llama.hear(sound, expected.shape[-1])
    assert relative_error(torch.from_numpy(found), expected) <= 1e-4


@pytest.mark.parametrize(("setting", "value"), [("audio_embed_dim", 320), ("rms_norm_eps", 1e-5)])
def test_pieces_that_llama_cpp_does_not_have(setting: str, value: float, tmp_path: Path) -> None:
    folder = build("gemma4_unified", tmp_path)
    configure(folder, audio_config={"model_type": "gemma4_unified_audio", setting: value})
    with pytest.raises(NotSupportedYet, match=f"{setting} {value} of sound"):
        needed_projector(open_folder(folder, "tiny")).conversion()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_chunk_size": 16}, "attention_chunk_size 16 of an encoder of sound"),
        ({"hidden_act": "gelu"}, "hidden_act gelu of an encoder of sound"),
        ({"conv_kernel_size": 7}, "conv_kernel_size 7 of an encoder of sound"),
    ],
)
def test_what_llama_cpp_does_not_compute(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = build(NAME, tmp_path)
    configure(folder, audio_config=GEMMA4_HEARING | changes)
    with pytest.raises(NotSupportedYet, match=message):
        needed_projector(open_folder(folder, "tiny")).conversion()


def test_another_spectrum(tmp_path: Path) -> None:
    folder = build(NAME, tmp_path)
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"hop_length": 320}}))
    with pytest.raises(NotSupportedYet, match="hop_length 320"):
        needed_projector(open_folder(folder, "tiny")).conversion()
