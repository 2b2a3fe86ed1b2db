"""K-EXAONE: windows and rope in three of four layers, DeepSeek V3's experts behind dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.ahead import HEAD, QWEN_NAMES, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe, qwen3
from hubquant.convert.rules.rope import Rope, rope_freqs
from hubquant.convert.rules.rule import Count, Number
from hubquant.convert.rules.windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _beside_factors(config: PreTrainedConfig) -> str | None:
    return "llama.cpp loads no such layer beside factors of rope" if rope_freqs(config) else None


EXAONE_MOE = Architecture(
    name="exaone-moe",
    classes={"ExaoneMoeForCausalLM": "exaone_moe", "ExaoneMoEForCausalLM": "exaone_moe"},
    restored_as="exaone_moe",
    rules=(
        *decoder.RULES,
        Rope(("default", "llama3")),
        Windows(period=4),
        moe.DenseLayersFirst(),
        *moe.counts("num_experts"),
        Count("expert_shared_count", "num_shared_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        moe.SharedWidth(moe.with_shared_experts),
        Number("expert_weights_scale", "routed_scaling_factor"),
        *(moe.Groups("num_experts") if rule == moe.Groups() else rule for rule in moe.SIGMOID_IN_GROUPS),
    ),
    dimensions=moe.with_shared_experts,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=moe.behind_dense(qwen3.ATTENTION, (*moe.routed(), *moe.shared("mlp.shared_experts"), moe.BIAS_BESIDE)),
    constants=rope_freqs,
    ahead=Ahead(lambda _: (*qwen3.ATTENTION, *decoder.gated_mlp(), *HEAD), QWEN_NAMES, left_out=_beside_factors),
    renames=((r"\.mlp\.gate\.e_score_correction_bias", ".mlp.e_score_correction_bias"),),  # as it is in memory
    without_effect=("first_k_dense_replace",),  # mlp_layer_types are made of it
)
