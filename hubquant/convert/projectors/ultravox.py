"""Ultravox: Whisper's encoder, of whose states some become one embedding. The language model may be in a repository of
its own, and transformers has no code of this one: its encoder is read as Qwen2-Audio's, which is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import whisper
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_CONSTANTS = {"projector_act": "swiglu", "projector_ln_mid": True, "num_projector_layers": 0}
_DEFAULTS = {"projector_act": "swiglu", "projector_ln_mid": False, "stack_factor": 8, "hidden_size": 4096}
_FRAMES = 3000  # of a spectrum of half a minute, of which the encoder makes half as many states
_SHORTENED = "llama.cpp leaves out the last embedding of half a minute, for which {states} of {stacked} states are left"
_LAST = "multi_modal_projector.linear_2"


def _metadata(model: Multimodal) -> Metadata:
    for name, constant in _CONSTANTS.items():
        if (found := getattr(model.config, name, constant)) != constant:
            raise NotSupportedYet(f"{name} {found} of an Ultravox", why=f"llama.cpp has {constant} here")
    if block := getattr(model.sound, "audio_latency_block_size", None):
        raise NotSupportedYet(
            f"audio_latency_block_size {block} of an Ultravox", why="llama.cpp attends to half a minute at once"
        )
    if (counted := _counted(model)) != _given(model):
        raise NotSupportedYet(
            f"stack_factor {model.config.stack_factor} of an Ultravox with d_model {model.sound.hidden_size}",
            why=f"llama.cpp counts {counted} embeddings of half a minute and ends when it finds {_given(model)}",
        )
    return {
        **whisper.metadata(model, "ultravox"),
        "audio.projection_dim": u32(_width(model)),
        "audio.projector.stack_factor": u32(model.config.stack_factor),
    }


def _counted(model: Multimodal) -> int:
    """Embeddings of half a minute that llama.cpp makes room for."""
    factor: int = model.config.stack_factor
    return -(-_FRAMES // factor) // 2


def _given(model: Multimodal) -> int:
    """Those that it computes: it rounds up by masking bits, which is exact for powers of two alone."""
    stride = model.sound.hidden_size * model.config.stack_factor
    states = model.sound.hidden_size * _FRAMES // 2
    return int(((states + stride - 1) & ~(stride - 1)) // stride)


def _shortened(model: Multimodal) -> tuple[str, ...]:
    left = _FRAMES // 2 - _given(model) * model.config.stack_factor
    return (_SHORTENED.format(states=left, stacked=model.config.stack_factor),) if left > 0 else ()


def _width(model: Multimodal) -> int:
    """Of the language model, which config.json may not tell."""
    return model.shapes[f"{_LAST}.weight"][0]


def _dimensions(model: Multimodal) -> Dimensions:
    sizes, inner = whisper.dimensions(model), model.config.hidden_size
    stacked = sizes["n_embd"] * model.config.stack_factor
    return {**sizes, "n_stacked": stacked, "n_both": inner, "n_half": inner // 2, "n_out": _width(model)}


def _outside(_: Multimodal) -> tuple[Row, ...]:
    return (
        *whisper.OUTSIDE,
        norm("multi_modal_projector.ln_pre", "n_stacked", stem="mm.a.norm_pre"),
        weight("multi_modal_projector.linear_1", "n_both", "n_stacked", "mm.a.mlp.1"),
        norm("multi_modal_projector.ln_mid", "n_half", stem="mm.a.norm_mid"),
        weight(_LAST, "n_out", "n_half", "mm.a.mlp.2"),
    )


def _as_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_DEFAULTS,
        **{name: value for name, value in config.items() if name != "text_config"},
        "model_type": "qwen2_audio",
        "audio_config": {**config["audio_config"], "model_type": "qwen2_audio_encoder"},
    }


ULTRAVOX = Projector(
    classes=("UltravoxModel",),
    as_transformers=_as_transformers,
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=whisper.LAYER,
    layers=whisper.LAYERS,
    encoder="a",
    notes=_shortened,
)
