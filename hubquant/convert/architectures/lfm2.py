"""LFM2: short gated convolutions in most layers, attention in the others. LFM2-MoE has experts behind its first
layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions, reshape
from hubquant.convert.rules.heads_by_layer import FULL, HeadsByLayer, attends, first_layer
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    Constant,
    Count,
    Epsilon,
    Fixed,
    Rule,
    Settings,
    check_count,
    integer,
    is_number,
    out_of_range,
)
from hubquant.convert.tables import Embeddings, Row, Tensors, linear, norm
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ATTENTION: tuple[Row, ...] = (
    linear("self_attn.q_proj", "n_embd_q", "n_embd"),
    linear("self_attn.k_proj", "n_embd_kv", "n_embd"),
    linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
    linear("self_attn.out_proj", "n_embd", "n_embd_q"),
    norm("self_attn.q_layernorm", "n_embd_head"),
    norm("self_attn.k_layernorm", "n_embd_head"),
)
_FLAT = reshape(("n_embd", "one", "n_conv"), ("n_embd", "n_conv"))
_CONVOLUTION: tuple[Row, ...] = (
    linear("conv.in_proj", "n_embd_3", "n_embd"),
    Tensors(("conv.conv.weight",), {"shortconv.conv.weight": ("n_embd", "n_conv")}, (_FLAT,)),
    linear("conv.out_proj", "n_embd", "n_embd"),
)


@dataclass(frozen=True)
class _FeedForward(Rule):
    """The width after the config's adjustments: 2/3, a factor, and up to the next multiple."""

    reads = (
        "intermediate_size",
        *("block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"),
    )

    def check(self, settings: Settings) -> None:
        for setting in ("intermediate_size", "block_ff_dim", "block_multiple_of"):
            check_count(settings, setting, 1 << 24)
        factor = settings.get("block_ffn_dim_multiplier")
        if factor is not None and not (is_number(factor) and 0 < factor < 1e6):
            raise out_of_range("block_ffn_dim_multiplier", factor, "a number above 0")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"feed_forward_length": u32(_feed_forward_length(config))}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"intermediate_size": integer(metadata, "feed_forward_length"), "block_auto_adjust_ff_dim": False}


def _feed_forward_length(config: PreTrainedConfig) -> int:
    width = int(config.intermediate_size)
    if config.block_auto_adjust_ff_dim:
        width = int(2 * width / 3)
        if config.block_ffn_dim_multiplier is not None:
            width = int(config.block_ffn_dim_multiplier * width)
            width = -(-width // config.block_multiple_of) * config.block_multiple_of
    return width


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = {**decoder.dimensions(config), "n_ff": _feed_forward_length(config)}
    return first_layer({**sizes, "n_embd_3": 3 * config.hidden_size, "n_conv": config.conv_L_cache}, config)


def _layer_types(layers: Sequence[bool]) -> dict[str, Any]:
    return {"layer_types": [FULL if here else "conv" for here in layers]}


def _moe_dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = {**moe.dimensions(config, config.num_experts, config.moe_intermediate_size), "n_conv": config.conv_L_cache}
    return first_layer({**sizes, "n_embd_3": 3 * config.hidden_size}, config)


_FEED_FORWARD: tuple[Row, ...] = (
    linear("feed_forward.w1", "n_ff", "n_embd"),
    linear("feed_forward.w3", "n_ff", "n_embd"),
    linear("feed_forward.w2", "n_embd", "n_ff"),
)
_EXPERTS: tuple[Row, ...] = (
    *moe.routed("feed_forward.gate", "feed_forward.experts", ("w1", "w3", "w2")),
    Tensors(("feed_forward.expert_bias",), {"exp_probs_b.bias": ("n_expert",)}),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    experts = layer >= getattr(config, "num_dense_layers", config.num_hidden_layers)
    return (
        norm("operator_norm"),
        *(_ATTENTION if attends(config, layer) else _CONVOLUTION),
        norm("ffn_norm"),
        *(_EXPERTS if experts else _FEED_FORWARD),
    )


_REST: tuple[Rule, ...] = (
    HeadsByLayer(_layer_types),
    Rope(),
    Epsilon("attention.layer_norm_rms_epsilon", "norm_eps"),
    Count("shortconv.l_cache", "conv_L_cache", most=1 << 10),
    Fixed("conv_bias", False),
)
LFM2 = Architecture(
    name="lfm2",
    classes={"Lfm2ForCausalLM": "lfm2", "LFM2ForCausalLM": "lfm2"},
    restored_as="lfm2",
    rules=(*(rule for rule in decoder.SIZES if rule != decoder.FEED_FORWARD), _FeedForward(), *_REST),
    dimensions=_dimensions,
    outside=(Embeddings(), norm("model.embedding_norm")),
    block=_block,
)
LFM2_MOE = Architecture(
    name="lfm2moe",
    classes={"Lfm2MoeForCausalLM": "lfm2_moe"},
    restored_as="lfm2_moe",
    rules=(
        *decoder.SIZES,
        *_REST,
        Count("leading_dense_block_count", "num_dense_layers", most=10_000, least=0),
        *moe.counts("num_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Constant("expert_gating_func", u32(moe.SIGMOID)),
        Fixed("use_expert_bias", True),
        Fixed("norm_topk_prob", True),
        Fixed("routed_scaling_factor", 1.0),
    ),
    dimensions=_moe_dimensions,
    outside=(Embeddings(), norm("model.embedding_norm")),
    block=_block,
)
