"""Llama 4: the states of squares of patches, side by side, through an adapter."""

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.gguf_file.metadata import Metadata, u32

_TURNED = "llama.cpp gives the embeddings of a picture column by column, where Llama 4 has them row by row"


def _metadata(model: Multimodal) -> Metadata:
    vision.check_rope(model)
    # transformers' code has these, whatever the configuration says
    keys = vision.metadata(model, "llama4", layer_norm_eps=1e-5, hidden_act="gelu")
    return {**keys, "vision.projector.scale_factor": u32(_side(model))}


def _side(model: Multimodal) -> int:
    """Patches on a side of a square."""
    ratio: float = model.vision.pixel_shuffle_ratio
    if (side := round(1 / ratio)) * ratio != 1:
        raise ValueError(f"pixel_shuffle_ratio {ratio}, which is not one by a whole number")
    return side


def _dimensions(model: Multimodal) -> Dimensions:
    seen, sizes = model.vision, vision.dimensions(model)
    return {
        **sizes,
        "n_positions": sizes["n_patches"] + 1,
        "n_merged": sizes["n_embd"] * _side(model) ** 2,
        "n_inner": seen.projector_input_dim,
        "n_adapted": seen.projector_output_dim,
    }


def _outside(_: Multimodal) -> tuple[Row, ...]:
    return (
        weight("vision_model.patch_embedding.linear", "n_embd", "n_pixels", "v.patch_embd"),
        Tensors(("vision_model.class_embedding",), {"v.class_embd": ("n_embd",)}),
        vision.positions("vision_model.positional_embedding_vlm", "n_positions"),
        norm("vision_model.layernorm_pre", bias=True, stem="v.pre_ln"),
        norm("vision_model.layernorm_post", bias=True, stem="v.post_ln"),
        weight("vision_model.vision_adapter.mlp.fc1", "n_inner", "n_merged", "mm.model.mlp.1"),
        weight("vision_model.vision_adapter.mlp.fc2", "n_adapted", "n_adapted", "mm.model.mlp.2"),
        weight("multi_modal_projector.linear_1", "n_out", "n_adapted", "mm.model.fc"),
    )


LLAMA4 = Projector(
    classes=("Llama4ForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=(
        norm("input_layernorm", bias=True, stem="ln1"),
        *vision.attention("self_attn.o_proj"),
        norm("post_attention_layernorm", bias=True, stem="ln2"),
        *vision.FEED_FORWARD,
    ),
    layers="vision_model.model.layers",
    renames=(vision.TOWER,),
    notes=lambda _: (_TURNED,),
)
