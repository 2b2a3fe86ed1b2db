"""Qwen3-ASR: seconds of a spectrum through three convolutions, and an encoder of eight of them at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hubquant.convert.operations import Dimensions, reshape
from hubquant.convert.projectors import whisper
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import check_processor, weight
from hubquant.convert.tables import Bundle, Place, Row, Tensors, WithoutBias, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, string
from hubquant.models.taps.tap import Tap

_CONSTANTS = {
    "activation_function": "gelu",
    "scale_embedding": False,
    "n_window": 50,  # half of a second of a spectrum
    "n_window_infer": 800,
    "max_position_embeddings": 13,  # states of a second
}
_SPECTRUM = {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160}
_FILLED = (
    "llama.cpp fills the last second of a sound, and its encoder hears what was filled, which the model leaves out"
)
_TIMES = 10000.0  # the longest of the waves that tell places, relative to the shortest


def _metadata(model: Multimodal) -> Metadata:
    heard = model.sound
    check_processor(model, _SPECTRUM)
    for name, constant in _CONSTANTS.items():
        if (found := getattr(heard, name)) != constant:
            raise NotSupportedYet(f"{name} {found} of an encoder of sound", why=f"llama.cpp has {constant} here")
    keys = whisper.encoder_keys(model, n_ff=heard.intermediate_size, n_mel=heard.num_mel_bins, epsilon=1e-5)
    return {"audio.projector_type": string("qwen3a"), **keys}


def _dimensions(model: Multimodal) -> Dimensions:
    heard, channels, bands = model.sound, model.sound.downsample_hidden_size, model.sound.num_mel_bins
    for _ in range(3):
        bands = (bands + 1) // 2
    return {
        "n_embd": heard.hidden_size,
        "n_ff": heard.intermediate_size,
        "n_layer": heard.num_hidden_layers,
        "n_channels": channels,
        "n_sampled": channels * bands,
        "n_side": 3,
        "one": 1,
        "n_positions": heard.max_position_embeddings,
        "n_out": heard.output_dim,
    }


@dataclass(frozen=True)
class _Places(WithoutBias):
    """Sines and cosines [n_positions, n_embd] of the states of a second, as Vaswani et al. 2017 have them, but all
    sines first. transformers computes them too."""

    def bundles(self, place: Place) -> Iterator[Bundle]:
        import torch

        count, width = shape = place.shape(("n_positions", "n_embd"))
        slower = torch.exp(-math.log(_TIMES) / (width // 2 - 1) * torch.arange(width // 2).float())
        angles = torch.arange(count)[:, None] * slower
        values = torch.cat([angles.sin(), angles.cos()], 1).flatten().tolist()
        yield Bundle((), {"a.position_embd.weight": shape}, values=tuple(values))

    def observed(self, place: Place) -> Iterator[tuple[str, Tap]]:  # noqa: ARG002
        return iter(())


def _convolution(number: int, channels: str) -> tuple[Row, ...]:
    source, target = f"audio_tower.conv2d{number}", f"a.conv2d.{number}"
    column = (reshape(("n_channels",), ("n_channels", "one", "one")),)
    return (
        Tensors((f"{source}.weight",), {f"{target}.weight": ("n_channels", channels, "n_side", "n_side")}),
        Tensors((f"{source}.bias",), {f"{target}.bias": ("n_channels", "one", "one")}, column),
    )


QWEN3_ASR = Projector(
    classes=("Qwen3ASRForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=lambda _: (
        *_convolution(1, "one"),
        *_convolution(2, "n_channels"),
        *_convolution(3, "n_channels"),
        weight("audio_tower.conv_out", "n_embd", "n_sampled", "a.conv_out"),
        _Places(),
        norm("audio_tower.ln_post", bias=True, stem="a.post_ln"),
        weight("multi_modal_projector.linear_1", "n_embd", "n_embd", "mm.a.mlp.1", bias=True),
        weight("multi_modal_projector.linear_2", "n_out", "n_embd", "mm.a.mlp.2", bias=True),
    ),
    layer=whisper.layer(weight("self_attn.k_proj", "n_embd", "n_embd", "attn_k", bias=True)),
    layers=whisper.LAYERS,
    encoder="a",
    notes=lambda _: (_FILLED,),
    renames=((r"^model\.(audio_tower|multi_modal_projector)\.", r"\1."),),
)
