"""BLOOM: biases by distance (ALiBi) instead of positions, a norm behind the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.head_order import ungroup_heads
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Computed, Count, Epsilon, Fixed
from hubquant.convert.tables import Embeddings, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TRAINED = 2048  # tokens, which the config class does not hold


def _context(config: PreTrainedConfig) -> int:
    return int(getattr(config, "seq_length", None) or _TRAINED)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width, n_head = config.hidden_size, config.n_head
    return {
        "n_vocab": config.vocab_size,
        "n_embd": width,
        "n_layer": config.n_layer,
        "n_ff": 4 * width,
        "n_head": n_head,
        "n_head_kv": n_head,
        "n_expert": 0,
        "n_qkv": 3 * width,
        "one": 1,
    }


BLOOM = Architecture(
    name="bloom",
    classes={"BloomForCausalLM": "bloom"},
    restored_as="bloom",
    rules=(
        Count("vocab_size", "vocab_size"),
        Computed("context_length", "seq_length", _context, most=(1 << 31) - 1),
        Count("embedding_length", "hidden_size"),
        Count("block_count", "n_layer", most=10_000),
        Computed("feed_forward_length", "", lambda config: 4 * config.hidden_size),
        Count("attention.head_count", "n_head", most=1 << 16),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        Fixed("apply_residual_connection_post_layernorm", False),
    ),
    dimensions=_dimensions,
    outside=(
        Embeddings("transformer.word_embeddings"),
        norm("transformer.word_embeddings_layernorm", bias=True, stem="token_embd_norm"),
        norm("transformer.ln_f", bias=True),
    ),
    block=every_layer(
        norm("input_layernorm", bias=True),
        linear(
            "self_attention.query_key_value",
            "n_qkv",
            "n_embd",
            bias=True,
            operations=(ungroup_heads("n_head", "one"),),
        ),
        linear("self_attention.dense", "n_embd", "n_embd", bias=True),
        norm("post_attention_layernorm", bias=True, stem="ffn_norm"),
        linear("mlp.dense_h_to_4h", "n_ff", "n_embd", bias=True),
        linear("mlp.dense_4h_to_h", "n_embd", "n_ff", bias=True),
    ),
    blocks="transformer.h",
    renames=((r"^(word_embeddings|word_embeddings_layernorm|ln_f|h)\.", r"transformer.\1."),),
    without_effect=("slow_but_exact",),
)
