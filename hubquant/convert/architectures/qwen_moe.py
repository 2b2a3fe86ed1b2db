"""Qwen2-MoE and Qwen3-MoE: experts in every layer, in Qwen2-MoE beside one that every token passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe, qwen2, qwen3
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Fixed, Rule
from hubquant.convert.rules.windows import QWEN_WINDOW, DroppedWindow
from hubquant.convert.tables import linear

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_EXPERTS: tuple[Rule, ...] = (
    Rope(),
    *moe.counts("num_experts"),
    Count("expert_feed_forward_length", "moe_intermediate_size"),
    Fixed("decoder_sparse_step", 1),
    Fixed("mlp_only_layers", []),
)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    shared = getattr(config, "shared_expert_intermediate_size", 0)
    return moe.dimensions(config, config.num_experts, config.moe_intermediate_size, shared)


QWEN2_MOE = Architecture(
    name="qwen2moe",
    classes={"Qwen2MoeForCausalLM": "qwen2_moe"},
    restored_as="qwen2_moe",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        *_EXPERTS,
        QWEN_WINDOW,
        Count("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        Fixed("norm_topk_prob", False),
        Fixed("qkv_bias", True),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        *qwen2.ATTENTION,
        *moe.routed(),
        *moe.shared("mlp.shared_expert"),
        linear("mlp.shared_expert_gate", "one", "n_embd"),
    ),
)
QWEN3_MOE = Architecture(
    name="qwen3moe",
    classes={"Qwen3MoeForCausalLM": "qwen3_moe"},
    restored_as="qwen3_moe",
    rules=(
        *decoder.RULES,
        *_EXPERTS,
        DroppedWindow(("sliding_window", "use_sliding_window")),
        Fixed("attention_bias", False),
        Fixed("norm_topk_prob", True),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*qwen3.ATTENTION, *moe.routed()),
)
