"""StarCoder and SantaCoder (GPT-BigCode): GPT-2 with one head of keys and values for all queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import GELU, Computed, Constant, Count, Epsilon, Fixed
from hubquant.convert.tables import Embeddings, Module, linear, norm
from hubquant.gguf_file.metadata import u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _feed_forward(config: PreTrainedConfig) -> int:
    return int(config.n_inner or 4 * config.n_embd)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.n_embd
    return {
        "n_vocab": config.vocab_size,
        "n_positions": config.n_positions,
        "n_embd": width,
        "n_layer": config.n_layer,
        "n_ff": _feed_forward(config),
        "n_head": config.n_head,
        "n_head_kv": 1,
        "n_expert": 0,
        "n_qkv": width + 2 * (width // config.n_head),
    }


STARCODER = Architecture(
    name="starcoder",
    classes={"GPTBigCodeForCausalLM": "gpt_bigcode"},
    restored_as="gpt_bigcode",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "n_positions", most=(1 << 31) - 1),
        Count("embedding_length", "n_embd"),
        Count("block_count", "n_layer", most=10_000),
        Computed("feed_forward_length", "n_inner", _feed_forward),
        Count("attention.head_count", "n_head", most=1 << 16),
        Constant("attention.head_count_kv", u32(1)),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        Fixed("activation_function", "gelu_pytorch_tanh", same=GELU),
        Fixed("multi_query", True),
        Fixed("scale_attn_weights", True),
        Fixed("add_cross_attention", False),
    ),
    dimensions=_dimensions,
    outside=(
        Embeddings("transformer.wte"),
        Module("transformer.wpe", ("n_positions", "n_embd")),
        norm("transformer.ln_f", bias=True),
    ),
    block=every_layer(
        norm("ln_1", bias=True),
        linear("attn.c_attn", "n_qkv", "n_embd", bias=True),
        linear("attn.c_proj", "n_embd", "n_embd", bias=True),
        norm("ln_2", bias=True),
        linear("mlp.c_fc", "n_ff", "n_embd", bias=True),
        linear("mlp.c_proj", "n_embd", "n_ff", bias=True),
    ),
    blocks="transformer.h",
    ignored=(r"\.attn\.(masked_)?bias$",),
    without_effect=("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"),
)
