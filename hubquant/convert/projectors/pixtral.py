"""Pixtral and Mistral 3: pictures of any size, with the embedding of a token of the language model after each row of
patches but the last; Mistral 3 merges patches before."""

from hubquant.convert.head_order import InterleaveHalves
from hubquant.convert.operations import Dimensions, Take, always
from hubquant.convert.projectors import vision
from hubquant.convert.projectors.projector import AGAIN, Multimodal, Projector
from hubquant.convert.projectors.vision import weight
from hubquant.convert.tables import Module, Row, Tensors, norm
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

_BREAK = "[IMG_BREAK]"
_EPSILON = 1e-5  # of all norms in transformers' code
_EMBEDDING = "embed_tokens.weight"


def _metadata(model: Multimodal) -> Metadata:
    vision.check_rope(model)
    vision.check_last_layer(model)
    vision.check_gelu(model)
    if (patches := getattr(model.config, "vision_feature_select_strategy", "full")) != "full":
        raise NotSupportedYet(f"vision_feature_select_strategy {patches}", why="llama.cpp takes all patches here")
    side = getattr(model.config, "spatial_merge_size", None)
    merging = {} if side is None else {"vision.spatial_merge_size": u32(side)}
    if merging and (epsilon := model.text.rms_norm_eps) != _EPSILON:
        raise NotSupportedYet(
            f"rms_norm_eps {epsilon} of the language model, which a projector of Mistral 3's has too",
            why=f"llama.cpp has {_EPSILON} in both",
        )
    return {**vision.metadata(model, "pixtral", layer_norm_eps=_EPSILON), **merging}


def _dimensions(model: Multimodal) -> Dimensions:
    sizes = vision.dimensions(model)
    side = getattr(model.config, "spatial_merge_size", 1)
    return {**sizes, "n_merged": sizes["n_embd"] * side**2, "n_head": model.vision.num_attention_heads}


def _outside(model: Multimodal) -> tuple[Row, ...]:
    if _BREAK not in model.tokens:
        raise CheckpointError(
            f"tokenizer.json has no token {_BREAK}",
            why="its embedding stands between rows of a picture",
            hint=AGAIN,
        )
    row = always(Take(model.tokens[_BREAK], model.text.vocab_size))
    return (
        vision.patches("vision_tower.patch_conv", bias=False),
        norm("vision_tower.ln_pre", stem="v.pre_ln"),
        *(MERGING if hasattr(model.config, "spatial_merge_size") else ()),
        weight("multi_modal_projector.linear_1", "n_out", "n_embd", "mm.1", bias="multimodal_projector_bias"),
        weight("multi_modal_projector.linear_2", "n_out", "n_out", "mm.2", bias="multimodal_projector_bias"),
        Tensors((_EMBEDDING,), {"v.token_embd.img_break": ("n_out",)}, (row,)),
    )


MERGING: tuple[Row, ...] = (
    norm("multi_modal_projector.norm", stem="mm.input_norm"),
    weight("multi_modal_projector.patch_merger.merging_layer", "n_embd", "n_merged", "mm.patch_merger"),
)


def _turned(name: str, stem: str) -> Module:
    """Queries or keys, whose rows rotary embeddings turn in pairs."""
    return Module(name, ("n_embd", "n_embd"), operations=(_pairs,), stem=stem)


def _pairs(sizes: Dimensions) -> InterleaveHalves:
    return InterleaveHalves(sizes["n_head"])


PIXTRAL = Projector(
    classes=("Mistral3ForConditionalGeneration", "LlavaForConditionalGeneration"),
    takes=lambda config: vision.encoder_of(config) == "pixtral",
    metadata=_metadata,
    dimensions=_dimensions,
    outside=_outside,
    layer=(
        norm("attention_norm", stem="ln1"),
        _turned("attention.q_proj", "attn_q"),
        _turned("attention.k_proj", "attn_k"),
        weight("attention.v_proj", "n_embd", "n_embd", "attn_v"),
        weight("attention.o_proj", "n_embd", "n_embd", "attn_out"),
        norm("ffn_norm", stem="ln2"),
        weight("feed_forward.gate_proj", "n_ff", "n_embd", "ffn_gate"),
        weight("feed_forward.up_proj", "n_ff", "n_embd", "ffn_up"),
        weight("feed_forward.down_proj", "n_embd", "n_ff", "ffn_down"),
    ),
    layers="vision_tower.transformer.layers",
    renames=(vision.TOWER, (r"^(model\.)?language_model\.(model\.)?embed_tokens\.", "embed_tokens.")),
)
