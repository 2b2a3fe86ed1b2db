"""PaddleOCR-VL: SigLIP with rotary embeddings for pictures of any size, of whose patches four become one embedding."""

import math

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, norm
from hubquant.gguf_file.metadata import Metadata

_PIXELS = (384**2, 1536**2)


def _metadata(model: Multimodal) -> Metadata:
    vision.check_rope(model)
    vision.check_merging(model)
    fewest, most = vision.pixels(model, *_PIXELS)
    keys = vision.metadata(model, "paddleocr", image_size=math.isqrt(most))
    return {**keys, **vision.pixel_keys(fewest, most)}


def _dimensions(model: Multimodal) -> Dimensions:
    return vision.merging(model, vision.MERGED)


def _outside(_model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_tower.embeddings.patch_embedding", bias=True),
        vision.positions("vision_tower.embeddings.position_embedding.weight"),
        norm("vision_tower.post_layernorm", bias=True, stem="v.post_ln"),
        norm("mlp_AR.pre_norm", bias=True, stem="mm.input_norm"),
        weight("mlp_AR.linear_1", "n_merged", "n_merged", "mm.1", bias=True),
        weight("mlp_AR.linear_2", "n_out", "n_merged", "mm.2", bias=True),
    )


PADDLEOCR_VL = Projector(
    classes=("PaddleOCRVLForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=vision.CLIP_LAYER,
    layers="vision_tower.encoder.layers",
    renames=((r"^(model\.)?visual\.vision_model\.", "vision_tower."), (r"^model\.(projector|mlp_AR)\.", "mlp_AR.")),
    ignored=(r"^vision_tower\.head\.", r"packing_position_embedding"),
)
