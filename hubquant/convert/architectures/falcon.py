"""Falcon 7B, 11B, 40B and 180B: keys and values shared by groups of queries, both halves of a layer in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.head_order import ungroup_heads
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import GELU, Computed, Constant, Count, Epsilon, Fixed, Settings, integer
from hubquant.convert.tables import Embeddings, Row, linear, norm
from hubquant.gguf_file.metadata import Metadata, string

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


def _groups(config: PreTrainedConfig) -> int:
    """Heads of keys and values."""
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    groups, heads, width = _groups(config), config.num_attention_heads, config.hidden_size
    return {
        "n_vocab": config.vocab_size,
        "n_embd": width,
        "n_layer": config.num_hidden_layers,
        "n_ff": config.ffn_hidden_size,
        "n_head": heads,
        "n_head_kv": groups,
        "n_expert": 0,
        "n_queries": heads // groups,
        "n_qkv": width // heads * (heads + 2 * groups),
    }


def _block(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    two_norms = config.new_decoder_architecture and config.num_ln_in_parallel_attn != 1
    norms = ("ln_mlp", "ln_attn") if two_norms else ("input_layernorm",)
    return (
        *(norm(name, bias=True) for name in norms),
        linear(
            "self_attention.query_key_value",
            "n_qkv",
            "n_embd",
            operations=(ungroup_heads("n_head_kv", "n_queries"),),
        ),
        linear("self_attention.dense", "n_embd", "n_embd"),
        linear("mlp.dense_h_to_4h", "n_ff", "n_embd"),
        linear("mlp.dense_4h_to_h", "n_embd", "n_ff"),
    )


@dataclass(frozen=True)
class FusedGroups(Computed):
    """More than one group of keys and values is the newer decoder."""

    reads = ("num_kv_heads", "multi_query", "new_decoder_architecture")

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        groups = integer(metadata, self.key) or 1
        return {"num_kv_heads": groups, "multi_query": True, "new_decoder_architecture": groups > 1}


def _told_by_tensors(tensors: Mapping[str, torch.Tensor], _settings: Settings) -> dict[str, Any]:
    return {"num_ln_in_parallel_attn": 2 if "blk.0.attn_norm_2.weight" in tensors else 1}


_RW_NAMES = {"n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_head_kv": "num_kv_heads"}


def _translate_rw(settings: Settings) -> Settings:
    """RWForCausalLM of 40B has groups of queries without calling it a new architecture."""
    renamed = {_RW_NAMES.get(name, name): value for name, value in settings.items()}
    return {"new_decoder_architecture": True, **renamed} if "n_head_kv" in settings else renamed


FALCON = Architecture(
    name="falcon",
    classes={"FalconForCausalLM": "falcon", "RWForCausalLM": "falcon"},
    restored_as="falcon",
    rules=(
        Count("vocab_size", "vocab_size"),
        Count("context_length", "max_position_embeddings", most=(1 << 31) - 1),
        Count("embedding_length", "hidden_size"),
        Count("block_count", "num_hidden_layers", most=10_000),
        Count("feed_forward_length", "ffn_hidden_size"),
        Count("attention.head_count", "num_attention_heads", most=1 << 16),
        FusedGroups("attention.head_count_kv", "num_kv_heads", _groups, most=1 << 16),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        Constant("tensor_data_layout", string("jploski")),
        Rope(("default",)),
        Fixed("alibi", False),
        Fixed("bias", False),
        Fixed("parallel_attn", True),
        Fixed("activation", "gelu", same=GELU),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("transformer.word_embeddings"), norm("transformer.ln_f", bias=True)),
    block=_block,
    translate=_translate_rw,
    translated=tuple(_RW_NAMES),
    blocks="transformer.h",
    told_by_tensors=_told_by_tensors,
    layout=("num_ln_in_parallel_attn",),
)
