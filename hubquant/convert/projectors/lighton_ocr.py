"""LightOnOCR: Pixtral's encoder and Mistral 3's projector, without embeddings between rows of patches."""

from dataclasses import replace

from hubquant.convert.projectors import vision
from hubquant.convert.projectors.pixtral import MERGING, PIXTRAL
from hubquant.convert.projectors.projector import Multimodal
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, norm
from hubquant.gguf_file.metadata import Metadata, u32

_EPSILON = 1e-5  # of the encoder; llama.cpp has it in the projector's norm too, where the models have 1e-6


def _metadata(model: Multimodal) -> Metadata:
    vision.check_rope(model)
    largest = vision.longest_edge(model, "size", model.vision.image_size)
    limit = {} if largest == model.vision.image_size else {"vision.preproc_image_size": u32(largest)}
    return {
        **vision.metadata(model, "lightonocr", layer_norm_eps=_EPSILON),
        "vision.spatial_merge_size": u32(model.config.spatial_merge_size),
        **limit,
    }


def _outside(_model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_tower.patch_conv", bias=False),
        norm("vision_tower.ln_pre", stem="v.pre_ln"),
        *MERGING,
        weight("multi_modal_projector.linear_1", "n_out", "n_embd", "mm.1"),
        weight("multi_modal_projector.linear_2", "n_out", "n_out", "mm.2"),
    )


LIGHTON_OCR = replace(
    PIXTRAL,
    classes=("LightOnOcrForConditionalGeneration", "LightOnOCRForConditionalGeneration"),
    takes=lambda _: True,
    metadata=_metadata,
    outside=_outside,
    renames=(
        (r"^model\.vision_encoder\.", "vision_tower."),
        (r"^model\.vision_projection\.", "multi_modal_projector."),
    ),
)
