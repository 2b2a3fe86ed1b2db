"""Qwen2-VL, 2.5-VL and EXAONE 4.5: patches of two frames, of which four become one embedding."""

from dataclasses import replace
from typing import Any

from hubquant.convert.operations import Dimensions, Inverse, Stack, always
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import thirds, weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_FRAMES = 2
_CONSTANTS = {
    "image_size": 560,  # pixels of a side that llama.cpp makes room for at first
    "layer_norm_eps": 1e-6,  # in transformers' code
}
_PIXELS = (56**2, 28**2 * 1280)


def metadata(model: Multimodal, projector: str, **settings: Any) -> Metadata:
    """As :func:`vision.metadata`. Raises ``NotSupportedYet`` besides for what llama.cpp has otherwise: frames, merged
    patches, rotary embeddings."""
    vision.check_rope(model)
    if (frames := model.vision.temporal_patch_size) != _FRAMES:
        raise NotSupportedYet(f"temporal_patch_size {frames}", why=f"llama.cpp takes {_FRAMES} frames together")
    vision.check_merging(model)
    seen = model.vision
    named = {"num_hidden_layers": seen.depth, "num_attention_heads": seen.num_heads}
    return vision.metadata(model, projector, **named, **settings)


def two_frames(name: str, *, bias: bool) -> tuple[Row, ...]:
    """A convolution [n_embd, channels, frames, height, width] as one for each frame."""
    shape = ("n_embd", "n_channels", "n_patch", "n_patch")
    targets = {"v.patch_embd.weight": shape, "v.patch_embd.weight.1": shape}
    weights = Tensors((f"{name}.weight",), targets, (always(Inverse(Stack(2))),))
    return (weights, Tensors((f"{name}.bias",), {"v.patch_embd.bias": ("n_embd",)})) if bias else (weights,)


def _metadata(model: Multimodal) -> Metadata:
    seen = model.vision
    width = {"hidden_size": seen.embed_dim, "intermediate_size": int(seen.embed_dim * seen.mlp_ratio)}
    return metadata(model, "qwen2vl_merger", **_CONSTANTS, **width)


def _metadata_2_5(model: Multimodal, projector: str = "qwen2.5vl_merger") -> Metadata:
    return {
        **metadata(model, projector, **_CONSTANTS),
        "vision.n_wa_pattern": u32(_whole_attention(model)),
    }


def _whole_attention(model: Multimodal) -> int:
    """Every which layer attends to the whole picture, and not to windows of it."""
    found = list(model.vision.fullatt_block_indexes)
    every = found[0] + 1 if found else 0
    if not found or found != list(range(every - 1, found[-1] + 1, every)):
        raise NotSupportedYet(f"fullatt_block_indexes {found}", why="llama.cpp has them at equal distances")
    if (window := model.vision.window_size) != 112:  # pixels, of llama.cpp's code
        raise NotSupportedYet(f"window_size {window}", why="llama.cpp has windows of 112 pixels")
    return every


def _dimensions(model: Multimodal) -> Dimensions:
    seen = model.vision
    return sizes(model, seen.embed_dim, int(seen.embed_dim * seen.mlp_ratio))


def _dimensions_2_5(model: Multimodal) -> Dimensions:
    return sizes(model, model.vision.hidden_size, model.vision.intermediate_size)


def _metadata_exaone(model: Multimodal) -> Metadata:
    return {
        **_metadata_2_5(model, "exaone4_5"),
        "vision.attention.head_count_kv": u32(model.vision.num_key_value_heads),
        **vision.pixel_keys(*vision.pixels(model, *_PIXELS)),
    }


def _dimensions_exaone(model: Multimodal) -> Dimensions:
    seen, known = model.vision, _dimensions_2_5(model)
    return {**known, "n_qkv": known["n_embd"] * (seen.num_heads + 2 * seen.num_key_value_heads) // seen.num_heads}


def sizes(model: Multimodal, width: int, inner: int) -> Dimensions:
    """Of an encoder of this ``width`` and ``inner`` width of its feed-forward networks."""
    return {
        "n_embd": width,
        "n_ff": inner,
        "n_layer": model.vision.depth,
        "n_channels": 3,
        "n_patch": model.vision.patch_size,
        "n_merged": width * vision.MERGED**2,
        "n_out": model.text.hidden_size,
    }


def _outside(*, bias: bool) -> tuple[Row, ...]:
    return (
        *two_frames("visual.patch_embed.proj", bias=False),
        norm("visual.merger.ln_q", bias=bias, stem="v.post_ln"),
        weight("visual.merger.mlp.0", "n_merged", "n_merged", "mm.0", bias=True),
        weight("visual.merger.mlp.2", "n_out", "n_merged", "mm.2", bias=True),
    )


_ATTENTION: tuple[Row, ...] = (
    thirds("attn.qkv", "weight"),
    thirds("attn.qkv", "bias"),
    weight("attn.proj", "n_embd", "n_embd", "attn_out", bias=True),
)

QWEN2_VL = Projector(
    classes=("Qwen2VLForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=lambda _: _outside(bias=True),
    layer=(
        norm("norm1", bias=True, stem="ln1"),
        *_ATTENTION,
        norm("norm2", bias=True, stem="ln2"),
        *vision.FEED_FORWARD,
    ),
    layers="visual.blocks",
    renames=(vision.TOWER,),
)
_GATED: tuple[Row, ...] = (
    weight("mlp.gate_proj", "n_ff", "n_embd", "ffn_gate", bias=True),
    weight("mlp.up_proj", "n_ff", "n_embd", "ffn_up", bias=True),
    weight("mlp.down_proj", "n_embd", "n_ff", "ffn_down", bias=True),
)
QWEN2_5_VL = replace(
    QWEN2_VL,
    classes=("Qwen2_5_VLForConditionalGeneration",),
    metadata=_metadata_2_5,
    dimensions=_dimensions_2_5,
    outside=lambda _: _outside(bias=False),
    layer=(norm("norm1", stem="ln1"), *_ATTENTION, norm("norm2", stem="ln2"), *_GATED),
)
EXAONE4_5 = replace(
    QWEN2_5_VL,
    classes=("Exaone4_5_ForConditionalGeneration",),
    metadata=_metadata_exaone,
    dimensions=_dimensions_exaone,
    layer=(
        norm("norm1", stem="ln1"),
        weight("attn.qkv", "n_qkv", "n_embd", "attn_qkv", bias=True),
        weight("attn.proj", "n_embd", "n_embd", "attn_out", bias=True),
        norm("norm2", stem="ln2"),
        *_GATED,
    ),
)
