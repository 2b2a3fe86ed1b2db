"""GPT-2: positions that were learned, weights stored with their rows and columns exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.operations import Dimensions, Transpose, always
from hubquant.convert.rules.rule import GELU, Computed, Count, Epsilon, Fixed
from hubquant.convert.tables import Embeddings, Module, inputs_of, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.n_embd
    return {
        "n_vocab": config.vocab_size,
        "n_positions": config.n_positions,
        "n_embd": width,
        "n_layer": config.n_layer,
        "n_ff": _feed_forward(config),
        "n_head": config.n_head,
        "n_head_kv": config.n_head,
        "n_expert": 0,
        "n_qkv": 3 * width,
    }


def _conv1d(name: str, rows: str, columns: str) -> Module:
    return Module(name, (rows, columns), bias=True, tap=inputs_of(name), operations=(always(Transpose()),))


def _feed_forward(config: PreTrainedConfig) -> int:
    return int(config.n_inner or 4 * config.n_embd)


GPT2 = Architecture(
    name="gpt2",
    classes={"GPT2LMHeadModel": "gpt2"},
    restored_as="gpt2",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "n_positions", most=(1 << 31) - 1),
        Count("embedding_length", "n_embd"),
        Count("block_count", "n_layer", most=10_000),
        Computed("feed_forward_length", "n_inner", _feed_forward),
        Count("attention.head_count", "n_head", most=1 << 16),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        Fixed("activation_function", "gelu_new", same=GELU),
        Fixed("scale_attn_weights", True),
        Fixed("scale_attn_by_inverse_layer_idx", False),
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
        _conv1d("attn.c_attn", "n_qkv", "n_embd"),
        _conv1d("attn.c_proj", "n_embd", "n_embd"),
        norm("ln_2", bias=True),
        _conv1d("mlp.c_fc", "n_ff", "n_embd"),
        _conv1d("mlp.c_proj", "n_embd", "n_ff"),
    ),
    blocks="transformer.h",
    ignored=(r"\.attn\.(masked_)?bias$",),
    renames=((r"^(wte|wpe|ln_f|h)\.", r"transformer.\1."),),
)
