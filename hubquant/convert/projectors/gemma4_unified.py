"""Gemma 4 without encoders: patches of a picture, and pieces of a sound as they are, through matrices."""

from __future__ import annotations

from hubquant.convert.operations import Dimensions, Move, always, reshape
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, f32, string, u32

_MERGED = 3  # patches on a side, of which one is made, unless llama.cpp is told otherwise
_SAMPLES = 640  # of a piece of sound
_EPSILON = 1e-6  # of the norm before what a sound is multiplied with
_UNUSED = {  # what llama.cpp wants to be told of every encoder
    "image_size": 224,
    "intermediate_size": 0,
    "num_hidden_layers": 0,
    "num_attention_heads": 0,
    "hidden_act": "quick_gelu",
}


def _metadata(model: Multimodal) -> Metadata:
    seen, heard = model.vision, model.sound
    keys = vision.metadata(
        model, "gemma4uv", **_UNUSED, hidden_size=seen.mm_embed_dim, layer_norm_eps=seen.rms_norm_eps
    )
    del keys["projector_type"]
    merged = seen.pooling_kernel_size
    other = {"vision.projector.scale_factor": u32(merged)} if merged != _MERGED else {}
    return {"vision.projector_type": string("gemma4uv"), **keys, **other, **({} if heard is None else _hearing(model))}


def _hearing(model: Multimodal) -> Metadata:
    heard = model.sound
    for name, constant in {"audio_embed_dim": _SAMPLES, "rms_norm_eps": _EPSILON}.items():
        if (found := getattr(heard, name)) != constant:
            raise NotSupportedYet(f"{name} {found} of sound", why=f"llama.cpp has {constant} here")
    vision.check_processor(model, {"sampling_rate": 16000})
    return {
        "has_audio_encoder": boolean(True),
        "audio.projector_type": string("gemma4ua"),
        "audio.projection_dim": u32(model.text.hidden_size),
        "audio.embedding_length": u32(heard.audio_embed_dim),
        "audio.feed_forward_length": u32(0),
        "audio.block_count": u32(0),
        "audio.attention.head_count": u32(0),
        "audio.attention.layer_norm_epsilon": f32(heard.rms_norm_eps),
        "audio.num_mel_bins": u32(_SAMPLES),
    }


def _dimensions(model: Multimodal) -> Dimensions:
    seen = model.vision
    side = seen.patch_size * seen.pooling_kernel_size
    if seen.output_proj_dims != seen.mm_embed_dim:
        raise ValueError(f"output_proj_dims {seen.output_proj_dims} is not mm_embed_dim {seen.mm_embed_dim}")
    return {
        "n_layer": 0,
        "n_embd": seen.mm_embed_dim,
        "n_patch": side,
        "n_channels": 3,
        "n_pixels": 3 * side**2,
        "n_axes": 2,
        "n_places": seen.mm_posemb_size,
        "n_samples": _SAMPLES,
        "n_out": model.text.hidden_size,
    }


def _by_channels(source: str, target: str, before: tuple[str, ...] = ()) -> Row:
    """Numbers of a patch, behind the axes ``before``, from [height, width, channels] to [channels, height, width]."""
    flat, apart = (*before, "n_pixels"), (*before, "n_patch", "n_patch", "n_channels")
    moved = (*before, "n_channels", "n_patch", "n_patch")
    return Tensors(
        (source,),
        {target: flat},
        (reshape(flat, apart), always(Move(len(before) + 2, len(before))), reshape(moved, flat)),
    )


def _outside(model: Multimodal) -> tuple[Row, ...]:
    return (
        _by_channels("vision_embedder.patch_ln1.weight", "v.patch_norm.1.weight"),
        _by_channels("vision_embedder.patch_ln1.bias", "v.patch_norm.1.bias"),
        _by_channels("vision_embedder.patch_dense.weight", "v.patch_embd.weight", ("n_embd",)),
        Tensors(("vision_embedder.patch_dense.bias",), {"v.patch_embd.bias": ("n_embd",)}),
        norm("vision_embedder.patch_ln2", bias=True, stem="v.patch_norm.2"),
        Tensors(
            ("vision_embedder.pos_embedding",),
            {"v.position_embd.weight": ("n_axes", "n_places", "n_embd")},
            (always(Move(1, 0)),),
        ),
        norm("vision_embedder.pos_norm", bias=True, stem="v.patch_norm.3"),
        weight("embed_vision.embedding_projection", "n_out", "n_embd", "mm.input_projection"),
        *(() if model.sound is None else _SOUND),
    )


_SOUND: tuple[Row, ...] = (weight("embed_audio.embedding_projection", "n_out", "n_samples", "mm.a.input_projection"),)

GEMMA4_UNIFIED = Projector(
    classes=("Gemma4UnifiedForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=(),
    layers="",
    renames=((r"^model\.(vision_embedder|embed_vision|embed_audio)\.", r"\1."),),
)
