"""What models that hear with Whisper's encoder share: its rows, and the keys that every one has."""

from __future__ import annotations

from hubquant.convert.operations import Dimensions, reshape
from hubquant.convert.projectors.projector import Multimodal
from hubquant.convert.projectors.vision import check_processor, weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, f32, string, u32

_POSITIONS = 1500  # of half a minute, which llama.cpp takes a sound in parts of
_SPECTRUM = {"chunk_length": 30, "sampling_rate": 16000, "n_fft": 400, "hop_length": 160}


def metadata(model: Multimodal, projector: str) -> Metadata:
    """The keys of every encoder. Raises ``NotSupportedYet`` for spectra and lengths that llama.cpp does not compute."""
    heard = model.sound
    check_processor(model, _SPECTRUM)
    if (found := heard.max_source_positions) != _POSITIONS:
        raise NotSupportedYet(f"max_source_positions {found}", why=f"llama.cpp has {_POSITIONS} here")
    if (name := heard.activation_function) != "gelu":
        raise NotSupportedYet(f"activation_function {name!r} of an encoder of sound", why="llama.cpp has GELU here")
    if heard.scale_embedding:
        raise NotSupportedYet("scale_embedding of an encoder of sound", why="llama.cpp has none here")
    keys = encoder_keys(model, n_ff=heard.intermediate_size, n_mel=heard.num_mel_bins, epsilon=1e-5)
    return {"projector_type": string(projector), **keys}


def encoder_keys(model: Multimodal, *, n_ff: int, n_mel: int, epsilon: float) -> Metadata:
    """Those of any encoder of sound: ``n_ff`` within a layer, ``n_mel`` bands of a spectrum, ``epsilon`` of norms."""
    heard = model.sound
    return {
        "has_audio_encoder": boolean(True),
        "audio.projection_dim": u32(model.text.hidden_size),
        "audio.embedding_length": u32(heard.hidden_size),
        "audio.feed_forward_length": u32(n_ff),
        "audio.block_count": u32(heard.num_hidden_layers),
        "audio.attention.head_count": u32(heard.num_attention_heads),
        "audio.attention.layer_norm_epsilon": f32(epsilon),
        "audio.num_mel_bins": u32(n_mel),
    }


def dimensions(model: Multimodal) -> Dimensions:
    """n_embd, n_ff, n_layer, n_mel, n_positions of the encoder, and n_out, which is the width of the language model."""
    heard = model.sound
    return {
        "n_embd": heard.hidden_size,
        "n_ff": heard.intermediate_size,
        "n_layer": heard.num_hidden_layers,
        "n_mel": heard.num_mel_bins,
        "n_taps": 3,
        "one": 1,
        "n_positions": heard.max_source_positions,
        "n_out": model.text.hidden_size,
    }


def _convolution(number: int, channels: str) -> tuple[Row, ...]:
    """Along time, whose bias llama.cpp adds to rows of one channel each."""
    source, target = f"audio_tower.conv{number}", f"a.conv1d.{number}"
    column = (reshape(("n_embd",), ("n_embd", "one")),)
    return (
        Tensors((f"{source}.weight",), {f"{target}.weight": ("n_embd", channels, "n_taps")}),
        Tensors((f"{source}.bias",), {f"{target}.bias": ("n_embd", "one")}, column),
    )


OUTSIDE: tuple[Row, ...] = (
    *_convolution(1, "n_mel"),
    *_convolution(2, "n_embd"),
    Tensors(("audio_tower.embed_positions.weight",), {"a.position_embd.weight": ("n_positions", "n_embd")}),
    norm("audio_tower.layer_norm", bias=True, stem="a.post_ln"),
)


def layer(keys: Row) -> tuple[Row, ...]:
    """With the matrix of the ``keys``, which has no bias in Whisper."""
    return (
        norm("self_attn_layer_norm", bias=True, stem="ln1"),
        weight("self_attn.q_proj", "n_embd", "n_embd", "attn_q", bias=True),
        keys,
        weight("self_attn.v_proj", "n_embd", "n_embd", "attn_v", bias=True),
        weight("self_attn.out_proj", "n_embd", "n_embd", "attn_out", bias=True),
        norm("final_layer_norm", bias=True, stem="ln2"),
        weight("fc1", "n_ff", "n_embd", "ffn_up", bias=True),
        weight("fc2", "n_embd", "n_ff", "ffn_down", bias=True),
    )


LAYER = layer(weight("self_attn.k_proj", "n_embd", "n_embd", "attn_k"))
LAYERS = "audio_tower.layers"
