"""Gemma 4: patches with a place on each axis, of which squares become one embedding; some models hear as well."""

from __future__ import annotations

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.gemma4_sound import GEMMA4_SOUND, clipped
from hubquant.convert.projectors.gemma4_sound import metadata as sound_metadata
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, string, u32

_POOLED = 3  # patches on a side, of which llama.cpp makes one unless it is told otherwise
_THETA = 100.0
_LARGEST = 224  # pixels of a side, which llama.cpp wants to be told, but does nothing with


def _metadata(model: Multimodal) -> Metadata:
    seen = model.vision
    vision.check_rope(model, _THETA)
    if seen.num_key_value_heads != seen.num_attention_heads:
        raise NotSupportedYet(
            f"num_key_value_heads {seen.num_key_value_heads} of an encoder of pictures",
            why="llama.cpp has as many as heads here",
        )
    if seen.head_dim * seen.num_attention_heads != seen.hidden_size:
        raise NotSupportedYet(f"head_dim {seen.head_dim} of an encoder of pictures", why="llama.cpp divides the width")
    settings = {
        "image_size": _LARGEST,
        "hidden_act": seen.hidden_activation,
        "layer_norm_eps": seen.rms_norm_eps,
    }
    keys = vision.metadata(model, "gemma4v", **settings)
    del keys["projector_type"]
    pooled = seen.pooling_kernel_size
    other = {"vision.projector.scale_factor": u32(pooled)} if pooled != _POOLED else {}
    heard = {} if model.sound is None else sound_metadata(model)
    return {"vision.projector_type": string("gemma4v"), **keys, **other, **heard}


def _dimensions(model: Multimodal) -> Dimensions:
    seen = model.vision
    return {
        **vision.dimensions(model, image_size=_LARGEST),
        "n_head_dim": seen.head_dim,
        "one": 1,
        "n_axes": 2,
        "n_places": seen.position_embedding_size,
    }


def _outside(model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.flat_patches("vision_tower.patch_embedder.input_proj"),
        Tensors(
            ("vision_tower.patch_embedder.position_embedding_table",),
            {"v.position_embd.weight": ("n_axes", "n_places", "n_embd")},
        ),
        *(_STANDARD if model.vision.standardize else ()),
        weight("embed_vision.embedding_projection", "n_out", "n_embd", "mm.input_projection"),
    )


_STANDARD: tuple[Row, ...] = (
    Tensors(("vision_tower.std_bias",), {"v.std_bias": ("n_embd",)}),
    Tensors(("vision_tower.std_scale",), {"v.std_scale": ("n_embd",)}),
)


GEMMA4 = Projector(
    classes=("Gemma4ForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=(
        norm("input_layernorm", stem="ln1"),
        *clipped("self_attn.q_proj", "n_embd", "n_embd", "attn_q"),
        *clipped("self_attn.k_proj", "n_embd", "n_embd", "attn_k"),
        *clipped("self_attn.v_proj", "n_embd", "n_embd", "attn_v"),
        norm("self_attn.q_norm", "n_head_dim", stem="attn_q_norm"),
        norm("self_attn.k_norm", "n_head_dim", stem="attn_k_norm"),
        *clipped("self_attn.o_proj", "n_embd", "n_embd", "attn_out"),
        norm("post_attention_layernorm", stem="attn_post_norm"),
        norm("pre_feedforward_layernorm", stem="ln2"),
        *clipped("mlp.gate_proj", "n_ff", "n_embd", "ffn_gate"),
        *clipped("mlp.up_proj", "n_ff", "n_embd", "ffn_up"),
        *clipped("mlp.down_proj", "n_embd", "n_ff", "ffn_down"),
        norm("post_feedforward_layernorm", stem="ffn_post_norm"),
    ),
    layers="vision_tower.encoder.layers",
    renames=(vision.TOWER,),
    beside=lambda model: None if model.sound is None else GEMMA4_SOUND,
)
