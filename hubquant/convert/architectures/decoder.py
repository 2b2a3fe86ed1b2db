"""What decoders in Llama's image share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.convert.operations import AddOne, Dimensions, always
from hubquant.convert.rules.rule import SILU, Count, Epsilon, Heads, Rule, head_size, key_value_heads
from hubquant.convert.tables import Embeddings, Module, Row, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FEED_FORWARD = Count("feed_forward_length", "intermediate_size")
SIZES: tuple[Rule, ...] = (
    Count("vocab_size", "vocab_size"),
    Count("context_length", "max_position_embeddings", most=(1 << 31) - 1),
    Count("embedding_length", "hidden_size"),
    Count("block_count", "num_hidden_layers", most=10_000),
    FEED_FORWARD,
)
_REST: tuple[Rule, ...] = (Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"), SILU)
RULES: tuple[Rule, ...] = (*SIZES, Heads(), *_REST)
RULES_OF_WHOLE_HEADS: tuple[Rule, ...] = (*SIZES, Heads(whole=True), *_REST)
"""The heads are together as wide as the model."""

GATED = ("gate_proj", "up_proj", "down_proj")
OUTSIDE: tuple[Row, ...] = (Embeddings(), norm("model.norm"))
OUTSIDE_WITH_OUTPUT: tuple[Row, ...] = (Embeddings(both=True), norm("model.norm"))


def dimensions(config: PreTrainedConfig) -> Dimensions:
    """Sizes by llama.cpp's names; n_embd_q and n_embd_kv are all heads side by side."""
    size, kv_heads = head_size(config), key_value_heads(config)
    return {
        "n_vocab": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_ff": getattr(config, "intermediate_size", 0),
        "n_head": config.num_attention_heads,
        "n_head_kv": kv_heads,
        "n_expert": 0,
        "n_embd_head": size,
        "n_embd_q": config.num_attention_heads * size,
        "n_embd_kv": kv_heads * size,
    }


def by_heads(counts: Iterable[int], size: int) -> Dimensions:
    """Of layers with different numbers of heads of queries: n_head_N and n_embd_q_N for N heads."""
    heads = {*counts}
    return {f"n_head_{n}": n for n in heads} | {f"n_embd_q_{n}": n * size for n in heads}


def around_one(rows: Iterable[Row]) -> tuple[Row, ...]:
    """With norms that are stored without their 1."""
    return tuple(
        replace(row, operations=(always(AddOne()),)) if isinstance(row, Module) and len(row.shape) == 1 else row
        for row in rows
    )


def gated_mlp(bias: bool | str = False) -> tuple[Module, ...]:
    gate, up, down = (f"mlp.{name}" for name in GATED)
    return (
        linear(gate, "n_ff", "n_embd", bias),
        linear(up, "n_ff", "n_embd", bias),
        linear(down, "n_embd", "n_ff", bias),
    )


def attention(bias: bool | str = False, output_bias: bool | str = False) -> tuple[Module, ...]:
    """Queries, keys, values and the output; ``bias`` is that of the first three."""
    return (
        linear("self_attn.q_proj", "n_embd_q", "n_embd", bias),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", bias),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd", bias),
        linear("self_attn.o_proj", "n_embd", "n_embd_q", output_bias),
    )
