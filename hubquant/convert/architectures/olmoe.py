"""OLMoE: OLMo's norms on all queries and keys, experts in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Epsilon, Fixed, Heads
from hubquant.convert.rules.windows import DroppedWindow
from hubquant.convert.tables import norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return moe.dimensions(config, config.num_experts, config.intermediate_size)


OLMOE = Architecture(
    name="olmoe",
    classes={"OlmoeForCausalLM": "olmoe"},
    restored_as="olmoe",
    rules=(
        *decoder.SIZES,
        Heads(grouped=False, whole=True),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        Rope(),
        DroppedWindow(),
        *moe.counts("num_experts"),
        Fixed("attention_bias", False),
        Fixed("clip_qkv", None),
        Fixed("norm_topk_prob", False),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(
        norm("input_layernorm"),
        *decoder.attention(),
        norm("self_attn.q_norm", "n_embd_q"),
        norm("self_attn.k_norm", "n_embd_kv"),
        norm("post_attention_layernorm"),
        *moe.routed(),
    ),
)
