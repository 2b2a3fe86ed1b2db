"""Idefics 3 and SmolVLM: SigLIP, of whose patches those of a square become one embedding."""

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.tables import Row, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32


def _metadata(model: Multimodal) -> Metadata:
    side = vision.size(model.vision.image_size, "image_size")
    tile = vision.longest_edge(model, "max_image_size", side)
    if tile != side:
        raise NotSupportedYet(f"max_image_size {tile}", why=f"llama.cpp cuts pictures in parts of image_size, {side}")
    return {
        **vision.metadata(model, "idefics3"),
        "vision.projector.scale_factor": u32(model.config.scale_factor),
        "vision.preproc_image_size": u32(vision.longest_edge(model, "size", side)),
    }


def _dimensions(model: Multimodal) -> Dimensions:
    return vision.merging(model, model.config.scale_factor)


def _outside(_model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_model.embeddings.patch_embedding", bias=True),
        vision.positions("vision_model.embeddings.position_embedding.weight"),
        norm("vision_model.post_layernorm", bias=True, stem="v.post_ln"),
        vision.weight("connector.modality_projection.proj", "n_out", "n_merged", "mm.model.fc"),
    )


IDEFICS3 = Projector(
    classes=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=vision.CLIP_LAYER,
    layers="vision_model.encoder.layers",
    renames=(vision.TOWER,),
)
