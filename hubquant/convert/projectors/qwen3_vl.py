"""Qwen3-VL and Qwen3.5: what Qwen2-VL has, with learned positions, and in Qwen3-VL embeddings of some layers too, which
the first layers of the language model are given (DeepStack)."""

from hubquant.convert.projectors import qwen_vl, vision
from hubquant.convert.projectors.projector import Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Row, norm
from hubquant.gguf_file.metadata import Metadata, booleans, u32

_EPSILON = 1e-6  # of all norms, in transformers' code


def _metadata(model: Multimodal) -> Metadata:
    seen = model.vision
    side, stacked = int(seen.num_position_embeddings**0.5) * seen.patch_size, _stacked(model)
    return {
        **qwen_vl.metadata(model, "qwen3vl_merger", image_size=side, layer_norm_eps=_EPSILON),
        "vision.spatial_merge_size": u32(seen.spatial_merge_size),
        "vision.is_deepstack_layers": booleans([number in stacked for number in range(seen.depth)]),
    }


def _stacked(model: Multimodal) -> list[int]:
    """Which layers' states the language model is given beside those of the last; Qwen3.5 has none."""
    found = list(model.vision.deepstack_visual_indexes) if "vl" in model.config.model_type else []
    if found != sorted({*found} & {*range(model.vision.depth)}):
        raise ValueError(f"deepstack_visual_indexes {found} of {model.vision.depth} layers")
    return found


def _outside(model: Multimodal) -> tuple[Row, ...]:
    return (
        *qwen_vl.two_frames("visual.patch_embed.proj", bias=True),
        vision.positions("visual.pos_embed.weight"),
        *(row for i, layer in enumerate(_stacked(model)) for row in _merger(i, layer)),
        norm("visual.merger.norm", bias=True, stem="v.post_ln"),
        weight("visual.merger.linear_fc1", "n_merged", "n_merged", "mm.0", bias=True),
        weight("visual.merger.linear_fc2", "n_out", "n_merged", "mm.2", bias=True),
    )


def _merger(number: int, layer: int) -> tuple[Row, ...]:
    name, stem = f"visual.deepstack_merger_list.{number}", f"v.deepstack.{layer}"
    return (
        norm(f"{name}.norm", "n_merged", bias=True, stem=f"{stem}.norm"),
        weight(f"{name}.linear_fc1", "n_merged", "n_merged", f"{stem}.fc1", bias=True),
        weight(f"{name}.linear_fc2", "n_out", "n_merged", f"{stem}.fc2", bias=True),
    )


QWEN3_VL = Projector(
    classes=(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    ),
    metadata=_metadata,
    dimensions=lambda model: {
        **qwen_vl.sizes(model, model.vision.hidden_size, model.vision.intermediate_size),
        "n_patches": model.vision.num_position_embeddings,
        "n_qkv": 3 * model.vision.hidden_size,
    },
    outside=_outside,
    layer=(
        norm("norm1", bias=True, stem="ln1"),
        weight("attn.qkv", "n_qkv", "n_embd", "attn_qkv", bias=True),
        weight("attn.proj", "n_embd", "n_embd", "attn_out", bias=True),
        norm("norm2", bias=True, stem="ln2"),
        weight("mlp.linear_fc1", "n_ff", "n_embd", "ffn_up", bias=True),
        weight("mlp.linear_fc2", "n_embd", "n_ff", "ffn_down", bias=True),
    ),
    layers="visual.blocks",
    renames=(vision.TOWER,),
)
