"""NeoBERT, whose code is not part of transformers: EuroBERT with queries, keys and values in one matrix, as gate and up
are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf import PoolingType

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import ungroup
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Fixed, Settings, check_count
from hubquant.convert.tables import Module, linear, norm
from hubquant.gguf_file.metadata import boolean, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_STEP = 8  # of the width of the feed-forward part
_NAMES = {"max_length": "max_position_embeddings", "norm_eps": "rms_norm_eps"}


def _as_eurobert(settings: Settings) -> dict[str, Any]:
    """Of ``intermediate_size`` two thirds are the width of gate and up each (NeoBERT's own code)."""
    for rule in (Fixed("hidden_act", "SwiGLU", same=("swiglu",)), Fixed("rope", True), Fixed("rms_norm", True)):
        rule.check(settings)
    check_count({"intermediate_size": settings.get("intermediate_size", 0)}, "intermediate_size", 1 << 24)
    width = 2 * settings["intermediate_size"] // 3
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "pad_token_id")
    return {
        **{name: settings[name] for name in names if name in settings},
        **{new: settings[old] for old, new in _NAMES.items() if old in settings},
        "intermediate_size": -(-width // _STEP) * _STEP,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {**sizes, "n_qkv": 3 * sizes["n_embd"], "n_ff_both": 2 * sizes["n_ff"]}


NEO_BERT = Architecture(
    name="neo-bert",
    classes=dict.fromkeys(("NeoBERT", "NeoBERTLMHead"), "eurobert"),
    restored_as="eurobert",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default",)),
        Constant("attention.causal", boolean(False)),
        Constant("pooling_type", u32(int(PoolingType.CLS))),  # as its card has it
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=_dimensions,
    outside=(Module("encoder", ("n_vocab", "n_embd")), norm("layer_norm", stem="enc.output_norm")),
    block=every_layer(
        norm("attention_norm"),
        linear("qkv", "n_qkv", "n_embd", operations=(ungroup("n_head", "n_embd_head", "n_embd_head", "n_embd_head"),)),
        linear("wo", "n_embd", "n_embd"),
        norm("ffn_norm"),
        linear("ffn.w12", "n_ff_both", "n_embd"),
        linear("ffn.w3", "n_embd", "n_ff"),
    ),
    blocks="transformer_encoder",
    ignored=(r"^decoder\.", r"(^|\.)freqs_cis$"),
    renames=((r"^model\.", ""),),
    translate=_as_eurobert,
    translated=(*_NAMES, "dim_head", "kwargs", "embedding_init_range", "decoder_init_range", "rope", "rms_norm"),
    own_code=True,
    generates=False,
    without_effect=("mask_token_id", "classifier_pooling"),
)
