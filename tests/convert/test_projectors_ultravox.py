"""Ultravox, of which transformers has no code: llama.cpp hears what Whisper's encoder and the projector, written out
here, make of a sound."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForMultimodalLM

from hubquant.convert.architectures import of_checkpoint
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.sources.checkpoint import open_folder
from hubquant.sources.projector import needed_projector
from tests.convert.test_projectors import write_projector
from tests.convert.test_projectors_sound import RATE, a_sound, build, spectrum
from tests.support.conversion import Weights, configure, edit_weights, relative_error, write_gguf
from tests.support.mtmd import Multimodal

STACK, INNER, WIDTH = 8, 96, 256
EPSILON = 1e-6  # of Ultravox's norms


def build_hearing(folder: Path) -> Path:
    """A Qwen2-Audio, of such a width that llama.cpp counts embeddings of as many states as of the published ones."""
    return build("qwen2_audio", folder, hidden_size=40, d_model=40)


def as_ultravox(folder: Path) -> Path:
    """Of a Qwen2-Audio, with a projector of its own and without the language model."""
    config = json.loads((folder / "config.json").read_text())
    heard = {name: value for name, value in config["audio_config"].items() if not name.startswith("num_hidden")}
    described = {
        "architectures": ["UltravoxModel"],
        "auto_map": {"AutoConfig": "ultravox_config.UltravoxConfig"},
        "audio_config": {**heard, "model_type": "whisper", "decoder_layers": 4},
        "audio_model_id": None,
        "hidden_size": INNER,
        "model_type": "ultravox",
        "projector_act": "swiglu",
        "projector_ln_mid": True,
        "stack_factor": STACK,
        "text_model_id": "org/llama",
    }
    (folder / "config.json").write_text(json.dumps(described))

    def edit(weights: Weights) -> None:
        generator = torch.Generator().manual_seed(2)
        stacked = STACK * config["audio_config"]["d_model"]
        for name in list(weights):
            x = weights.pop(name)
            if "audio_tower." in name:
                weights[name.removeprefix("model.")] = x
        shapes = {
            "ln_pre": (stacked,),
            "linear_1": (INNER, stacked),
            "ln_mid": (INNER // 2,),
            "linear_2": (WIDTH, INNER // 2),
        }
        for name, shape in shapes.items():
            x = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
            weights[f"multi_modal_projector.{name}.weight"] = x if len(shape) > 1 else 1 + x

    return edit_weights(folder, edit)


def projected(states: torch.Tensor, weights: Weights) -> torch.Tensor:
    """[frames, n] of an encoder -> [ceil(frames / STACK), WIDTH]."""
    of = {
        name: weights[f"multi_modal_projector.{name}.weight"] for name in ("ln_pre", "linear_1", "ln_mid", "linear_2")
    }
    x = F.pad(states, (0, 0, 0, -len(states) % STACK)).reshape(-1, STACK * states.shape[-1])
    x, gate = (F.rms_norm(x, x.shape[-1:], of["ln_pre"], EPSILON) @ of["linear_1"].T).chunk(2, -1)
    x = F.rms_norm(x * F.silu(gate), gate.shape[-1:], of["ln_mid"], EPSILON)
    return x @ of["linear_2"].T


def test_llama_cpp_hears_the_same(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    folder = build_hearing(tmp_path / "model")
    model: Any = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.float32)
    write_gguf(folder, tmp_path / "model.gguf", "F32")
    sound, found_weights = a_sound(20), {}
    edit_weights(as_ultravox(folder), found_weights.update)
    features = spectrum()(sound, sampling_rate=RATE, return_tensors="pt").input_features
    with torch.no_grad():
        encoder = model.model.audio_tower
        encoder.avg_pooler = torch.nn.Identity()  # of two states, which Qwen2-Audio has before the last norm
        expected = projected(encoder(features).last_hidden_state[0], found_weights)
    write_projector(folder, tmp_path / "mmproj.gguf", "F32")
    with Multimodal(tmp_path / "model.gguf", tmp_path / "mmproj.gguf") as llama:
        (found,) = llama.hear(sound, WIDTH)
    assert len(expected) == 188
    assert relative_error(torch.from_numpy(found), expected[:187]) <= 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projector_ln_mid": ...}, "projector_ln_mid False of an Ultravox"),
        ({"projector_act": "gelu"}, "projector_act gelu of an Ultravox"),
        ({"num_projector_layers": 2}, "num_projector_layers 2 of an Ultravox"),
        ({"stack_factor": 9}, "stack_factor 9 of an Ultravox with d_model 40"),
    ],
)
def test_what_llama_cpp_does_not_compute(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = configure(as_ultravox(build_hearing(tmp_path)), **changes)
    with pytest.raises(NotSupportedYet, match=re.escape(message)):
        needed_projector(open_folder(folder, "tiny")).conversion()


def test_attention_in_blocks(tmp_path: Path) -> None:
    folder = as_ultravox(build_hearing(tmp_path))
    heard = json.loads((folder / "config.json").read_text())["audio_config"]
    configure(folder, audio_config={**heard, "audio_latency_block_size": 100})
    with pytest.raises(NotSupportedYet, match="audio_latency_block_size 100"):
        needed_projector(open_folder(folder, "tiny")).conversion()


def test_a_projector_whose_width_is_not_there(tmp_path: Path) -> None:
    folder = as_ultravox(build_hearing(tmp_path))
    edit_weights(folder, lambda weights: weights.pop("multi_modal_projector.linear_2.weight"))
    with pytest.raises(CheckpointError, match=r"multi_modal_projector\.linear_2\.weight"):
        needed_projector(open_folder(folder, "tiny")).conversion()


def test_the_language_model_is_elsewhere(tmp_path: Path) -> None:
    source = open_folder(as_ultravox(build_hearing(tmp_path)), "tiny")
    assert "4 of 8 states" in needed_projector(source).conversion().notes[0]
    with pytest.raises(NotSupportedYet, match="a repository of its own") as caught:
        of_checkpoint(source.checkpoint.config)
    assert caught.value.hint == "convert org/llama, and this one with --mmproj"
