"""LFM2-VL: SigLIP 2 for pictures of any size, of whose patches four become one embedding."""

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, Tensors, Where, norm
from hubquant.gguf_file.metadata import Metadata, u32

_SIDE = 256  # pixels, which llama.cpp needs to be told although it takes pictures of any size
_PROCESSOR = {"min_image_tokens": 64, "max_image_tokens": 256, "tile_size": 512, "min_tiles": 2, "max_tiles": 10}


def _metadata(model: Multimodal) -> Metadata:
    vision.check_gelu(model)
    vision.check_last_layer(model)
    vision.check_processor(model, _PROCESSOR)
    vision.check_projector_bias(model)
    return {
        **vision.metadata(model, "lfm2", image_size=_SIDE),
        "vision.projector.scale_factor": u32(model.config.downsample_factor),
    }


def _dimensions(model: Multimodal) -> Dimensions:
    sizes = vision.merging(model, model.config.downsample_factor, image_size=_SIDE)
    return {**sizes, "n_patches": model.vision.num_patches, "n_inner": model.config.projector_hidden_size}


def _outside(_model: Multimodal) -> tuple[Row, ...]:
    patch = "vision_tower.embeddings.patch_embedding"
    return (
        vision.flat_patches(patch),
        Tensors((f"{patch}.bias",), {"v.patch_embd.bias": ("n_embd",)}),
        vision.positions("vision_tower.embeddings.position_embedding.weight"),
        norm("vision_tower.post_layernorm", bias=True, stem="v.post_ln"),
        Where(
            "projector_use_layernorm",
            (norm("multi_modal_projector.layer_norm", "n_merged", bias=True, stem="mm.input_norm"),),
        ),
        weight("multi_modal_projector.linear_1", "n_inner", "n_merged", "mm.1", bias=True),
        weight("multi_modal_projector.linear_2", "n_out", "n_inner", "mm.2", bias=True),
    )


LFM2_VL = Projector(
    classes=("Lfm2VlForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=vision.CLIP_LAYER,
    layers="vision_tower.encoder.layers",
    renames=(vision.SIGLIP, vision.TOWER),
    ignored=(r"^vision_tower\.head\.",),
)
