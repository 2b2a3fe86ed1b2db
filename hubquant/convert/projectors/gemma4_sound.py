"""What Gemma 4 hears with: a conformer, with attention to a few states before each."""

from __future__ import annotations

from hubquant.convert.operations import Dimensions, Softplus, always, reshape
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.projectors.whisper import encoder_keys
from hubquant.convert.tables import Row, Tensors, Where, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, string

_BANDS = 128
_SPECTRUM = {"feature_size": _BANDS, "sampling_rate": 16000, "frame_length": 320, "hop_length": 160, "fft_length": 512}
_CONSTANTS = {
    "attention_chunk_size": 12,
    "attention_context_left": 13,
    "attention_context_right": 0,
    "attention_logit_cap": 50.0,
    "conv_kernel_size": 5,
    "hidden_act": "silu",
    "residual_weight": 0.5,
    "rms_norm_eps": 1e-6,
}
"""Of llama.cpp's code."""


def metadata(model: Multimodal) -> Metadata:
    """The keys beside those for pictures. Raises ``NotSupportedYet`` for what llama.cpp does not compute."""
    heard = model.sound
    vision.check_processor(model, _SPECTRUM)
    for name, constant in _CONSTANTS.items():
        if (found := getattr(heard, name)) != constant:
            raise NotSupportedYet(f"{name} {found} of an encoder of sound", why=f"llama.cpp has {constant} here")
    keys = encoder_keys(model, n_ff=4 * heard.hidden_size, n_mel=_BANDS, epsilon=heard.rms_norm_eps)
    return {"audio.projector_type": string("gemma4a"), **keys}


def _dimensions(model: Multimodal) -> Dimensions:
    heard = model.sound
    first, second = heard.subsampling_conv_channels
    return {
        "one": 1,
        "n_embd": heard.hidden_size,
        "n_head_dim": heard.hidden_size // heard.num_attention_heads,
        "n_ff": 4 * heard.hidden_size,
        "n_gated": 2 * heard.hidden_size,
        "n_taps": heard.conv_kernel_size,
        "n_side": 3,
        "n_first": first,
        "n_second": second,
        "n_sampled": first // 4 * second,
        "n_states": heard.output_proj_dims,
        "n_layer": heard.num_hidden_layers,
        "n_out": model.text.hidden_size,
    }


def clipped(name: str, rows: str, columns: str, stem: str) -> tuple[Row, ...]:
    """A matrix [rows, columns] whose inputs and outputs may have bounds."""
    bounds = tuple(
        Tensors((f"{name}.{end}",), {f"{stem}.{end}": ("one",)}, (reshape((), ("one",)),))
        for end in ("input_min", "input_max", "output_min", "output_max")
    )
    return weight(f"{name}.linear", rows, columns, stem), Where("use_clipped_linears", bounds)


def _sampling(number: int, channels: str, filters: str) -> tuple[Row, ...]:
    """A convolution of every second frame and band."""
    name = f"audio_tower.subsample_conv_projection.layer{number}"
    return (
        Tensors((f"{name}.conv.weight",), {f"a.conv1d.{number}.weight": (filters, channels, "n_side", "n_side")}),
        norm(f"{name}.norm", filters, stem=f"a.conv1d.{number}.norm"),
    )


def _feed_forward(number: int, suffix: str) -> tuple[Row, ...]:
    name = f"feed_forward{number}"
    return (
        norm(f"{name}.pre_layer_norm", stem=f"ffn_norm{suffix}"),
        *clipped(f"{name}.ffw_layer_1", "n_ff", "n_embd", f"ffn_up{suffix}"),
        *clipped(f"{name}.ffw_layer_2", "n_embd", "n_ff", f"ffn_down{suffix}"),
        norm(f"{name}.post_layer_norm", stem=f"ffn_post_norm{suffix}"),
    )


GEMMA4_SOUND = Projector(
    classes=(),
    metadata=metadata,
    dimensions=_dimensions,
    outside=lambda _: (
        *_sampling(0, "one", "n_first"),
        *_sampling(1, "n_first", "n_second"),
        weight("audio_tower.subsample_conv_projection.input_proj_linear", "n_embd", "n_sampled", "a.input_projection"),
        weight("audio_tower.output_proj", "n_states", "n_embd", "a.pre_encode.out", bias=True),
        weight("embed_audio.embedding_projection", "n_out", "n_states", "mm.a.input_projection"),
    ),
    layer=(
        *_feed_forward(1, ""),
        norm("norm_pre_attn", stem="attn_pre_norm"),
        *clipped("self_attn.q_proj", "n_embd", "n_embd", "attn_q"),
        *clipped("self_attn.k_proj", "n_embd", "n_embd", "attn_k"),
        *clipped("self_attn.v_proj", "n_embd", "n_embd", "attn_v"),
        weight("self_attn.relative_k_proj", "n_embd", "n_embd", "attn_k_rel"),
        Tensors(("self_attn.per_dim_scale",), {"per_dim_scale.weight": ("n_head_dim",)}, (always(Softplus()),)),
        *clipped("self_attn.post", "n_embd", "n_embd", "attn_out"),
        norm("norm_post_attn", stem="attn_post_norm"),
        norm("lconv1d.pre_layer_norm", stem="conv_norm"),  # the names that llama.cpp has, of both norms
        *clipped("lconv1d.linear_start", "n_gated", "n_embd", "conv_pw1"),
        Tensors(
            ("lconv1d.depthwise_conv1d.weight",),
            {"conv_dw.weight": ("n_embd", "n_taps")},
            (reshape(("n_embd", "one", "n_taps"), ("n_embd", "n_taps")),),
        ),
        norm("lconv1d.conv_norm", stem="norm_conv"),
        *clipped("lconv1d.linear_end", "n_embd", "n_embd", "conv_pw2"),
        *_feed_forward(2, "_1"),
        norm("norm_out", stem="ln2"),
    ),
    layers="audio_tower.layers",
    encoder="a",
)
