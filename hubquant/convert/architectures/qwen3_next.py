"""Qwen3-Next: gated delta nets and gated attention, and experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.ahead import QWEN_NAMES, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import gated_delta, moe
from hubquant.convert.head_order import ungroup
from hubquant.convert.operations import Dimensions, split
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Fixed
from hubquant.convert.tables import Row, Tensors, inputs_of, linear

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


_PROJECTIONS: tuple[Row, ...] = (
    Tensors(
        ("linear_attn.in_proj_qkvz.weight",),
        {"attn_qkv.weight": ("n_qkv", "n_embd"), "attn_gate.weight": ("n_values", "n_embd")},
        (
            ungroup("n_key", "n_value_head", "n_value_head", "n_values_of_key", "n_values_of_key"),
            split("n_qkv", "n_values"),
        ),
        taps=2 * (inputs_of("linear_attn.in_proj_qkvz"),),
    ),
    linear("linear_attn.in_proj_ba", "n_value_2", "n_embd"),
    linear("linear_attn.out_proj", "n_embd", "n_values"),
)
SHARED: tuple[Row, ...] = (
    *moe.shared("mlp.shared_expert"),
    linear("mlp.shared_expert_gate", "one", "n_embd"),
)
EXPERTS = (
    *moe.counts("num_experts"),
    Count("expert_feed_forward_length", "moe_intermediate_size"),
    Count("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)


def dimensions(config: PreTrainedConfig) -> Dimensions:
    width, shared = config.moe_intermediate_size, config.shared_expert_intermediate_size
    return {**moe.dimensions(config, config.num_experts, width, shared), **gated_delta.dimensions(config)}


_LAYERS = gated_delta.Layers(_PROJECTIONS, (*moe.routed(), *SHARED))
QWEN3_NEXT = Architecture(
    name="qwen3next",
    classes={"Qwen3NextForCausalLM": "qwen3_next"},
    restored_as="qwen3_next",
    rules=(
        *gated_delta.RULES,
        Count("feed_forward_length", "intermediate_size"),
        Rope(("default", "yarn"), partial=True),
        *EXPERTS,
        Fixed("norm_topk_prob", True),
        Fixed("decoder_sparse_step", 1),
        Fixed("mlp_only_layers", []),
    ),
    dimensions=dimensions,
    outside=gated_delta.OUTSIDE,
    block=_LAYERS,
    ahead=Ahead(_LAYERS.ahead, QWEN_NAMES),
)
