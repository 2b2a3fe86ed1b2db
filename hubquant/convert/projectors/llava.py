"""LLaVA 1.5 and LLaVA-NeXT: the states of CLIP or SigLIP before its last layer, through two matrices."""

from dataclasses import replace
from typing import Any

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, i32s, string

_CLIP, _SIGLIP = "clip_vision_model", "siglip_vision_model"
_SHIFTED = (
    "llama.cpp sets the class token behind the patches where CLIP has it before them: it encodes a picture as if all "
    "of its patches were one further left, and the last were that token"
)
_FLAT = (
    "llama.cpp gives the parts of a picture one after the other, without a token at the end of each row of the whole"
)


def _metadata(model: Multimodal) -> Metadata:
    vision.check_gelu(model)
    if not model.config.multimodal_projector_bias:
        raise NotSupportedYet("multimodal_projector_bias false", why="llama.cpp adds biases in LLaVA's projector")
    wanted = "default" if _has_class(model) else "full"
    if (patches := model.config.vision_feature_select_strategy) != wanted:
        why = f"llama.cpp takes every patch, and no class token, which is {wanted!r} for this encoder"
        raise NotSupportedYet(f"vision_feature_select_strategy {patches!r}", why=why)
    layers = _layers(model)
    usual = layers == [model.vision.num_hidden_layers - 1]
    return {**vision.metadata(model, "mlp"), **({} if usual else {"vision.feature_layer": i32s(layers)})}


def _layers(model: Multimodal) -> list[int]:
    """After how many layers states are taken, which llama.cpp joins in ascending order."""
    count, given = model.vision.num_hidden_layers, model.config.vision_feature_layer
    named = [given] if isinstance(given, int) else list(given)
    found = [layer if layer >= 0 else count + 1 + layer for layer in named]
    if found != sorted({*found} & {*range(count + 1)}):
        raise NotSupportedYet(f"vision_feature_layer {given}", why="llama.cpp takes layers in their order, each once")
    return found


def _has_class(model: Multimodal) -> bool:
    return bool(model.vision.model_type == _CLIP)


def _dimensions(model: Multimodal) -> Dimensions:
    sizes = vision.dimensions(model)
    return {
        **sizes,
        "n_positions": sizes["n_patches"] + _has_class(model),
        "n_states": sizes["n_embd"] * len(_layers(model)),
    }


def _outside(model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_tower.embeddings.patch_embedding", bias=not _has_class(model)),
        vision.positions("vision_tower.embeddings.position_embedding.weight", "n_positions"),
        *(_CLASS if _has_class(model) else ()),
        weight("multi_modal_projector.linear_1", "n_out", "n_states", "mm.0", bias=True),
        weight("multi_modal_projector.linear_2", "n_out", "n_out", "mm.2", bias=True),
    )


_CLASS: tuple[Row, ...] = (
    Tensors(("vision_tower.embeddings.class_embedding",), {"v.class_embd": ("n_embd",)}),
    norm("vision_tower.pre_layrnorm", bias=True, stem="v.pre_ln"),
)


def _next_metadata(model: Multimodal) -> Metadata:
    """Resolutions that a picture may be cut to, [height, width] in transformers."""
    sizes: Any = model.config.image_grid_pinpoints
    return {
        **_metadata(model),
        "vision.image_grid_pinpoints": i32s([side for height, width in sizes for side in (width, height)]),
        "vision.mm_patch_merge_type": string("spatial_unpad"),
    }


def _shifted(model: Multimodal) -> tuple[str, ...]:
    return (_SHIFTED,) if _has_class(model) else ()


LLAVA = Projector(
    classes=("LlavaForConditionalGeneration",),
    takes=lambda config: vision.encoder_of(config) in (_CLIP, _SIGLIP),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=vision.CLIP_LAYER,
    layers="vision_tower.encoder.layers",
    renames=(vision.SIGLIP, vision.TOWER, (r"^model\.image_newline$", "image_newline")),
    ignored=(r"^vision_tower\.(post_layernorm|head)\.", r"\.position_ids$"),
    notes=_shifted,
)
LLAVA_NEXT = replace(
    LLAVA,
    classes=("LlavaNextForConditionalGeneration",),
    metadata=_next_metadata,
    outside=lambda model: (*_outside(model), Tensors(("image_newline",), {"v.image_newline": ("n_out",)})),
    notes=lambda model: (*_shifted(model), _FLAT),
)
