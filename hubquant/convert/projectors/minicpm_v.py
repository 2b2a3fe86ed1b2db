"""MiniCPM-V 4.6: SigLIP that merges four patches within its layers, and four of the merged ones behind them."""

from hubquant.convert.operations import Dimensions
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, i32s, u32

_CONSTANTS = {"merge_kernel_size": [2, 2], "merger_times": 1, "drop_vision_last_layer": False}
_SIDE = 70  # embeddings of places, of which llama.cpp gives each patch the nearest
_EPSILON = 1e-6  # of the projector's norm in transformers' code
_MERGER = "vision_tower.vit_merger"


def _metadata(model: Multimodal) -> Metadata:
    whole, seen = model.config, model.vision
    found = {**{name: getattr(whole, name) for name in _CONSTANTS}, "window_kernel_size": seen.window_kernel_size}
    for name, value in found.items():
        plain = list(value) if isinstance(value, tuple) else value
        if plain != (constant := _CONSTANTS.get(name, [2, 2])):
            raise NotSupportedYet(f"{name} {plain} of a MiniCPM-V", why=f"llama.cpp has {constant} here")
    if (side := vision.size(seen.image_size, "image_size") // seen.patch_size) != _SIDE:
        raise NotSupportedYet(f"{side} x {side} places of a MiniCPM-V", why=f"llama.cpp has {_SIDE} x {_SIDE} here")
    if seen.layer_norm_eps != _EPSILON:
        raise NotSupportedYet(
            f"layer_norm_eps {seen.layer_norm_eps} of a MiniCPM-V",
            why=f"llama.cpp has one for the encoder and the projector, which has {_EPSILON}",
        )
    return {
        **vision.metadata(model, "minicpmv4_6", image_size=model.processor.get("scale_resolution", whole.image_size)),
        "vision.projector.scale_factor": u32(4 if _merges_within(model) else 2),
        "vision.wa_layer_indexes": i32s([whole.insert_layer_id]),
    }


def _merges_within(model: Multimodal) -> bool:
    """Raises ``NotSupportedYet`` for an unknown number of patches of an embedding."""
    mode = model.processor.get("downsample_mode", model.config.downsample_mode)
    if mode not in ("4x", "16x"):
        raise NotSupportedYet(f"downsample_mode {mode} of a MiniCPM-V", why="llama.cpp has 4x and 16x")
    return bool(mode == "16x")


def _dimensions(model: Multimodal) -> Dimensions:
    sizes = vision.merging(model, 2)
    return {**sizes, "n_merged_ff": 4 * sizes["n_ff"]}


def _outside(model: Multimodal) -> tuple[Row, ...]:
    return (
        vision.patches("vision_tower.embeddings.patch_embedding", bias=True),
        vision.positions("vision_tower.embeddings.position_embedding.weight"),
        norm("vision_tower.post_layernorm", bias=True, stem="v.post_ln"),
        *(_WITHIN if _merges_within(model) else ()),
        norm("merger.mlp.0.pre_norm", "n_merged", bias=True, stem="mm.input_norm"),
        weight("merger.mlp.0.linear_1", "n_merged", "n_merged", "mm.up", bias=True),
        weight("merger.mlp.0.linear_2", "n_out", "n_merged", "mm.down", bias=True),
    )


_WITHIN: tuple[Row, ...] = (
    norm(f"{_MERGER}.layer_norm1", bias=True, stem="v.vit_merger.ln1"),
    weight(f"{_MERGER}.self_attn.q_proj", "n_embd", "n_embd", "v.vit_merger.attn_q", bias=True),
    weight(f"{_MERGER}.self_attn.k_proj", "n_embd", "n_embd", "v.vit_merger.attn_k", bias=True),
    weight(f"{_MERGER}.self_attn.v_proj", "n_embd", "n_embd", "v.vit_merger.attn_v", bias=True),
    weight(f"{_MERGER}.self_attn.out_proj", "n_embd", "n_embd", "v.vit_merger.attn_out", bias=True),
    norm(f"{_MERGER}.pre_norm", "n_merged", bias=True, stem="v.vit_merger.ds_ln"),
    weight(f"{_MERGER}.linear_1", "n_merged_ff", "n_merged", "v.vit_merger.ds_ffn_up", bias=True),
    weight(f"{_MERGER}.linear_2", "n_embd", "n_merged_ff", "v.vit_merger.ds_ffn_down", bias=True),
)

MINICPM_V = Projector(
    classes=("MiniCPMV4_6ForConditionalGeneration",),
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=vision.CLIP_LAYER,
    layers="vision_tower.encoder.layers",
    renames=((r"^model\.(vision_tower|merger)\.", r"\1."),),
    ignored=(r"^vision_tower\.vit_merger\.",),
)
