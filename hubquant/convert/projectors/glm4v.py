"""GLM-4V, 4.5V and OCR: patches of two frames, of which a convolution makes one state of four."""

from dataclasses import replace

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import qwen_vl, vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Module, Row, norm
from hubquant.gguf_file.metadata import Metadata


def _metadata(model: Multimodal) -> Metadata:
    settings = {"intermediate_size": _inner(model), "layer_norm_eps": model.vision.rms_norm_eps}
    return qwen_vl.metadata(model, "glm4v", **settings)


def _of_ocr(model: Multimodal) -> bool:
    return bool(model.config.model_type == "glm_ocr")


def _inner(model: Multimodal) -> int:
    """The width within a layer, which for GLM-4V is that of the language model."""
    return int(model.vision.intermediate_size if _of_ocr(model) else model.vision.out_hidden_size)


def _dimensions(model: Multimodal) -> Dimensions:
    seen = model.vision
    return {
        **qwen_vl.sizes(model, seen.hidden_size, _inner(model)),
        "n_head_dim": seen.hidden_size // seen.num_heads,
        "n_patches": (vision.size(seen.image_size, "image_size") // seen.patch_size) ** 2,
        "n_merge": seen.spatial_merge_size,
        "n_qkv": 3 * seen.hidden_size,
        "n_between": seen.out_hidden_size * seen.in_channels if _of_ocr(model) else seen.intermediate_size,
    }


def _outside(_: Multimodal) -> tuple[Row, ...]:
    return (
        *qwen_vl.two_frames("visual.patch_embed.proj", bias=True),
        norm("visual.post_layernorm", stem="v.post_ln"),
        Module("visual.downsample", ("n_out", "n_embd", "n_merge", "n_merge"), bias=True, stem="mm.patch_merger"),
        weight("visual.merger.proj", "n_out", "n_out", "mm.model.fc"),
        norm("visual.merger.post_projection_norm", "n_out", bias=True, stem="mm.post_norm"),
        weight("visual.merger.gate_proj", "n_between", "n_out", "mm.gate"),
        weight("visual.merger.up_proj", "n_between", "n_out", "mm.up"),
        weight("visual.merger.down_proj", "n_out", "n_between", "mm.down"),
    )


def _outside_4v(model: Multimodal) -> tuple[Row, ...]:
    return (
        *_outside(model),
        norm("visual.post_conv_layernorm", stem="v.norm_embd"),
        vision.positions("visual.embeddings.position_embedding.weight"),
    )


def _layer(*, bias: bool | str) -> tuple[Row, ...]:
    """The layer's other matrices have a ``bias`` too."""
    return (
        norm("norm1", stem="ln1"),
        weight("attn.qkv", "n_qkv", "n_embd", "attn_qkv", bias="attention_bias"),
        weight("attn.proj", "n_embd", "n_embd", "attn_out", bias=bias),
        norm("norm2", stem="ln2"),
        weight("mlp.gate_proj", "n_ff", "n_embd", "ffn_gate", bias=bias),
        weight("mlp.up_proj", "n_ff", "n_embd", "ffn_up", bias=bias),
        weight("mlp.down_proj", "n_embd", "n_ff", "ffn_down", bias=bias),
    )


GLM4V = Projector(
    classes=("Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration"),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside_4v,
    layer=_layer(bias=False),
    layers="visual.blocks",
    renames=(vision.TOWER,),
)
GLM_OCR = replace(
    GLM4V,
    classes=("GlmOcrForConditionalGeneration",),
    outside=_outside,
    layer=(
        *_layer(bias="attention_bias"),
        norm("attn.q_norm", "n_head_dim", stem="attn_q_norm"),
        norm("attn.k_norm", "n_head_dim", stem="attn_k_norm"),
    ),
)
