"""MiniMax-M3 (text): in the layers with experts, attention within blocks of tokens that an indexer chooses for each
group of heads; norms as Gemma's, and GPT-OSS's clamped activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, gemma, minimax_m2, mixtral, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    Constant,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Number,
    Rule,
    Settings,
    check_list,
    integer,
    out_of_range,
)
from hubquant.convert.tables import Embeddings, Row, linear
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, boolean, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SPARSE, _FULL = "minimax_m3_sparse", "full_attention"
_OF_SPARSE = {"use_sparse_attention": True, "sparse_score_type": "max", "sparse_init_block": 0}


@dataclass(frozen=True)
class _RotaryDim(Rule):
    """transformers does not read it: it must tell the same part of each head as ``partial_rotary_factor``."""

    reads = ("rotary_dim",)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        rotated = int(config.head_dim * (config.rope_parameters.get("partial_rotary_factor") or 1))
        if config.rotary_dim != rotated:
            raise CheckpointError(
                f"rotary_dim in config.json is {str(config.rotary_dim)[:40]}",
                why=f"its partial_rotary_factor tells that {rotated} of the {config.head_dim} in a head are rotated",
                hint="compare config.json with the one of the original repository",
            )
        if config.index_head_dim < rotated:
            raise out_of_range("index_head_dim", config.index_head_dim, f"at least rotary_dim, {rotated}")
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"rotary_dim": integer(metadata, "rope.dimension_count")}


@dataclass(frozen=True)
class _SparseLayers(Rule):
    """The layers with experts are those whose attention is sparse, with an indexer's head for each group of heads."""

    reads = ("layer_types",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "layer_types")
        told = settings.get("sparse_attention_config") or {}
        if not isinstance(told, Mapping):
            raise out_of_range("sparse_attention_config", told, "a table")
        for name, value in _OF_SPARSE.items():
            if told.get(name, value) != value:
                raise NotSupportedYet(f"{name} {str(told[name])[:40]!r}", why=f"llama.cpp computes {value!r} here")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds = [_FULL if kind == moe.DENSE else _SPARSE for kind in config.mlp_layer_types]
        if list(config.layer_types) != kinds:
            raise NotSupportedYet(
                "sparse attention in other layers than those with experts",
                why="llama.cpp has an indexer in those alone",
            )
        if config.index_n_heads != config.num_key_value_heads:
            raise NotSupportedYet(
                f"{config.index_n_heads} heads of the indexer for {config.num_key_value_heads} key-value heads",
                why="llama.cpp has one for each",
            )
        if config.index_local_blocks > config.index_topk_blocks:
            raise out_of_range("index_local_blocks", config.index_local_blocks, "no more than index_topk_blocks")
        return {}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        kinds = moe.DenseLayersFirst().settings(metadata)["mlp_layer_types"]
        return {"layer_types": [_FULL if kind == moe.DENSE else _SPARSE for kind in kinds]}


@dataclass(frozen=True)
class _SharedExperts(Rule):
    """How many experts wide the one is that every token passes."""

    key = "expert_shared_count"
    reads = ("shared_intermediate_size",)

    def check(self, settings: Settings) -> None:
        Count(self.key, "shared_intermediate_size").check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        count, rest = divmod(config.shared_intermediate_size, config.intermediate_size)
        if rest or not count:
            raise NotSupportedYet(
                f"a shared expert {config.shared_intermediate_size} wide beside others of {config.intermediate_size}",
                why="llama.cpp knows how many of them it is",
            )
        return {self.key: u32(count)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        width = integer(metadata, "expert_feed_forward_length") or 0
        return {"shared_intermediate_size": width * (integer(metadata, self.key) or 0)}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    key = config.index_head_dim
    return {
        **mixtral.dimensions(config),
        "n_ff": config.dense_intermediate_size,
        "n_ff_shexp": config.shared_intermediate_size,
        "n_index_key": key,
        "n_index_queries": config.index_n_heads * key,
    }


def _gated(module: str, computing: str, width: str) -> tuple[Row, ...]:
    """The matrices of a feed-forward network, of which transformers has the first two as one."""
    gate, up, down = (f"{module}.{name}" for name in decoder.GATED)
    return (
        linear(gate, width, "n_embd", computing=f"{computing}.gate_up_proj"),
        linear(up, width, "n_embd", computing=f"{computing}.gate_up_proj"),
        linear(down, "n_embd", width, computing=f"{computing}.down_proj"),
    )


_ATTENTION: tuple[Row, ...] = (
    gemma.norm("input_layernorm"),
    *decoder.attention(),
    gemma.norm("self_attn.q_norm", "n_embd_head"),
    gemma.norm("self_attn.k_norm", "n_embd_head"),
    gemma.norm("post_attention_layernorm"),
)
_INDEXER: tuple[Row, ...] = (
    linear(
        "self_attn.index_q_proj",
        "n_index_queries",
        "n_embd",
        computing="self_attn.indexer.q_proj",
        stem="indexer.q_proj",
    ),
    linear(
        "self_attn.index_k_proj", "n_index_key", "n_embd", computing="self_attn.indexer.k_proj", stem="indexer.k_proj"
    ),
    gemma.norm("self_attn.index_q_norm", "n_index_key", "indexer.q_norm"),
    gemma.norm("self_attn.index_k_norm", "n_index_key", "indexer.k_norm"),
)
_EXPERTS: tuple[Row, ...] = (
    *mixtral.EXPERTS,
    minimax_m2.BIAS,
    *_gated("block_sparse_moe.shared_experts", "mlp.shared_experts", "n_ff_shexp"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (*_ATTENTION, *(_gated("mlp", "mlp", "n_ff") if moe.is_dense(config, layer) else (*_INDEXER, *_EXPERTS)))


MINIMAX_M3 = Architecture(
    name="minimax-m3",
    classes={"MiniMaxM3VLForCausalLM": "minimax_m3_vl_text", "MiniMaxM3SparseForCausalLM": "minimax_m3_vl_text"},
    restored_as="minimax_m3_vl_text",
    rules=(
        *(rule for rule in decoder.SIZES if rule != decoder.FEED_FORWARD),
        Count("feed_forward_length", "dense_intermediate_size"),
        Count("expert_feed_forward_length", "intermediate_size"),
        Heads(),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Rope(("default",), partial=True),
        _RotaryDim(),
        moe.DenseLayersFirst(),
        *mixtral.COUNTS,
        _SharedExperts(),
        Number("expert_weights_scale", "routed_scaling_factor"),
        Constant("expert_weights_norm", boolean(True)),
        *minimax_m2.ROUTING,
        Count("attention.indexer.head_count", "index_n_heads", most=1 << 16),
        Count("attention.indexer.key_length", "index_head_dim", most=1 << 16),
        Count("attention.indexer.top_k", "index_topk_blocks"),
        Count("attention.indexer.block_size", "index_block_size"),
        Count("attention.indexer.local_blocks", "index_local_blocks", least=0),
        _SparseLayers(),
        Fixed("hidden_act", "silu", same=("swigluoai",)),
        Fixed("swiglu_alpha", 1.702),
        Fixed("swiglu_beta", 1.0),
        Fixed("swiglu_limit", 7.0),
        Fixed("n_shared_experts", 1),
        Fixed("use_gemma_norm", True),
        Fixed("qk_norm_type", "per_head"),
        Fixed("attention_output_gate", False),
    ),
    dimensions=_dimensions,
    outside=(Embeddings(both=True), gemma.norm("model.norm")),
    block=_block,
    translated=("sparse_attention_config", "moe_layer_freq", "num_mtp_modules", "num_nextn_predict_layers"),
)
