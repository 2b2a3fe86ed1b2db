"""GPT-2: positions that were learned, weights stored with their rows and columns exchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, Block, every_layer
from hubquant.convert.operations import Dimensions, Transpose, always
from hubquant.convert.rules.rule import GELU, Computed, Count, Epsilon, Fixed, Rule
from hubquant.convert.tables import Embeddings, Module, Row, inputs_of, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _feed_forward(config: PreTrainedConfig) -> int:
    return int(config.n_inner or 4 * config.n_embd)


def dimensions(config: PreTrainedConfig, kv_heads: int | None = None) -> Dimensions:
    """``kv_heads`` is how many heads of keys and values there are, by default one for each of the queries."""
    width, n_head = config.n_embd, config.n_head
    n_head_kv = kv_heads or n_head
    return {
        "n_vocab": config.vocab_size,
        "n_positions": config.n_positions,
        "n_embd": width,
        "n_layer": config.n_layer,
        "n_ff": _feed_forward(config),
        "n_head": n_head,
        "n_head_kv": n_head_kv,
        "n_expert": 0,
        "n_qkv": width + 2 * n_head_kv * (width // n_head),
    }


def block(matrix: Callable[..., Row]) -> Block:
    """``matrix`` makes the row of a weight with a bias, of its name and size."""
    return every_layer(
        norm("ln_1", bias=True),
        matrix("attn.c_attn", "n_qkv", "n_embd"),
        matrix("attn.c_proj", "n_embd", "n_embd"),
        norm("ln_2", bias=True),
        matrix("mlp.c_fc", "n_ff", "n_embd"),
        matrix("mlp.c_proj", "n_embd", "n_ff"),
    )


def _conv1d(name: str, rows: str, columns: str) -> Module:
    return Module(name, (rows, columns), bias=True, tap=inputs_of(name), operations=(always(Transpose()),))


SIZES: tuple[Rule, ...] = (
    Count("vocab_size", "vocab_size"),
    Count("context_length", "n_positions", most=(1 << 31) - 1),
    Count("embedding_length", "n_embd"),
    Count("block_count", "n_layer", most=10_000),
    Computed("feed_forward_length", "n_inner", _feed_forward),
    Count("attention.head_count", "n_head", most=1 << 16),
)
EPSILON = Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon")
GPT2 = Architecture(
    name="gpt2",
    classes={"GPT2LMHeadModel": "gpt2"},
    restored_as="gpt2",
    rules=(
        *SIZES,
        EPSILON,
        Fixed("activation_function", "gelu_new", same=GELU),
        Fixed("scale_attn_weights", True),
        Fixed("scale_attn_by_inverse_layer_idx", False),
        Fixed("add_cross_attention", False),
    ),
    dimensions=dimensions,
    outside=(
        Embeddings("transformer.wte"),
        Module("transformer.wpe", ("n_positions", "n_embd")),
        norm("transformer.ln_f", bias=True),
    ),
    block=block(_conv1d),
    blocks="transformer.h",
    ignored=(r"\.attn\.(masked_)?bias$",),
    renames=((r"^(wte|wpe|ln_f|h)\.", r"transformer.\1."),),
)
