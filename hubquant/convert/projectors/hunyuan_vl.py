"""Hunyuan-VL and HunyuanOCR: a vision transformer with learned places, of whose patches convolutions make one of four,
with an embedding after each row and one at both ends."""

from __future__ import annotations

from hubquant.convert.operations import Dimensions, WithoutFirst, always
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Module, Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_CONSTANTS = {"interpolate_mode": ("bilinear",), "temporal_patch_size": (1,), "hidden_act": ("gelu", "gelu_new")}
_PIXELS = (512**2, 2048**2)


def _metadata(model: Multimodal) -> Metadata:
    seen = model.vision
    vision.check_merging(model)
    for name, constants in _CONSTANTS.items():
        if (found := getattr(seen, name)) not in constants:
            raise NotSupportedYet(f"{name} {found} of a Hunyuan-VL", why=f"llama.cpp has {constants[0]} here")
    if (heads := seen.num_key_value_heads) != seen.num_attention_heads:
        raise NotSupportedYet(
            f"num_key_value_heads {heads} of an encoder of pictures", why="llama.cpp has as many as heads here"
        )
    return {
        **vision.metadata(model, "hunyuanvl", image_size=seen.max_image_size, layer_norm_eps=seen.rms_norm_eps),
        "vision.spatial_merge_size": u32(seen.spatial_merge_size),
        **vision.pixel_keys(*vision.pixels(model, *_PIXELS)),
    }


def _dimensions(model: Multimodal) -> Dimensions:
    sizes = vision.dimensions(model, model.vision.max_image_size)
    width = sizes["n_embd"]
    return {**sizes, "n_side": vision.MERGED, "n_twice": 2 * width, "n_four": 4 * width, "one": 1}


def _outside(_: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vit.embeddings.patch_embedding", bias=True),
        Tensors(  # without that of a class token, which no patch has
            ("vit.embeddings.position_embedding.weight",),
            {"v.position_embd.weight": ("n_patches", "n_embd")},
            (always(WithoutFirst()),),
        ),
        norm("vit.perceive.before_rms", stem="mm.pre_norm"),
        Module("vit.perceive.proj.0", ("n_twice", "n_embd", "n_side", "n_side"), bias=True, stem="mm.0"),
        Module("vit.perceive.proj.2", ("n_four", "n_twice", "one", "one"), bias=True, stem="mm.2"),
        weight("vit.perceive.mlp", "n_out", "n_four", "mm.model.fc", bias=True),
        norm("vit.perceive.after_rms", "n_out", stem="mm.post_norm"),
        Tensors(("vit.perceive.image_newline",), {"v.image_newline": ("n_four",)}),
        Tensors(("vit.perceive.image_begin",), {"mm.image_begin": ("n_out",)}),
        Tensors(("vit.perceive.image_end",), {"mm.image_end": ("n_out",)}),
        Tensors(("vit.perceive.image_sep",), {"v.view_seperator": ("n_out",)}),  # llama.cpp's spelling
    )


HUNYUAN_VL = Projector(
    classes=("HunYuanVLForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=(
        norm("input_layernorm", bias=True, stem="ln1"),
        *vision.attention("self_attn.o_proj"),
        norm("post_attention_layernorm", bias=True, stem="ln2"),
        weight("mlp.dense_h_to_4h", "n_ff", "n_embd", "ffn_up", bias=True),
        weight("mlp.dense_4h_to_h", "n_embd", "n_ff", "ffn_down", bias=True),
    ),
    layers="vit.layers",
    renames=((r"^model\.vit\.", "vit."),),
)
