"""Gemma 3: SigLIP, whose patches are pooled to as many embeddings for a picture of any size."""

import math

from hubquant.convert.operations import AddOne, always
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.tables import Module, Row, Tensors, norm
from hubquant.gguf_file.metadata import Metadata, u32

_POOLED = 4  # patches on a side, of which llama.cpp makes one unless it is told otherwise


def _metadata(model: Multimodal) -> Metadata:
    side = math.isqrt(vision.dimensions(model)["n_patches"])
    pooled = side // math.isqrt(model.config.mm_tokens_per_image)
    other = {"vision.projector.scale_factor": u32(pooled)} if pooled != _POOLED else {}
    return {**vision.metadata(model, "gemma3"), **other}


def _outside(_model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_tower.embeddings.patch_embedding", bias=True),
        vision.positions("vision_tower.embeddings.position_embedding.weight"),
        norm("vision_tower.post_layernorm", bias=True, stem="v.post_ln"),
        Module(
            "multi_modal_projector.mm_soft_emb_norm",
            ("n_embd",),
            operations=(always(AddOne()),),
            stem="mm.soft_emb_norm",
        ),
        Tensors(
            ("multi_modal_projector.mm_input_projection_weight",),
            {"mm.input_projection.weight": ("n_embd", "n_out")},
        ),
    )


GEMMA3 = Projector(
    classes=("Gemma3ForConditionalGeneration",),
    metadata=_metadata,
    dimensions=vision.dimensions,
    outside=_outside,
    layer=vision.CLIP_LAYER,
    layers="vision_tower.encoder.layers",
    renames=(vision.SIGLIP, vision.TOWER),
    ignored=(r"^vision_tower\.head\.",),
)
