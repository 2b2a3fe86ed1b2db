"""Arcee's Trinity (AFMoE): windows and rope in three of four layers, gated attention, norms before and behind both
halves of a layer, experts behind dense layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Count, Fixed, Number
from hubquant.convert.rules.windows import Windows
from hubquant.convert.tables import Row, Tensors, linear, norm
from hubquant.gguf_file.metadata import boolean, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    linear("self_attn.q_proj", "n_embd_q", "n_embd"),
    linear("self_attn.k_proj", "n_embd_kv", "n_embd"),
    linear("self_attn.v_proj", "n_embd_kv", "n_embd"),
    linear("self_attn.gate_proj", "n_embd_q", "n_embd"),
    linear("self_attn.o_proj", "n_embd", "n_embd_q"),
    norm("self_attn.q_norm", "n_embd_head"),
    norm("self_attn.k_norm", "n_embd_head"),
    norm("post_attention_layernorm"),
    norm("pre_mlp_layernorm"),
    norm("post_mlp_layernorm"),
)
_EXPERTS: tuple[Row, ...] = (
    *moe.routed("mlp.router.gate"),
    *moe.shared("mlp.shared_experts"),
    Tensors(("mlp.expert_bias",), {"exp_probs_b.bias": ("n_expert",)}),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (*_ATTENTION, *(decoder.gated_mlp() if layer < config.num_dense_layers else _EXPERTS))


AFMOE = Architecture(
    name="afmoe",
    classes={"AfmoeForCausalLM": "afmoe"},
    restored_as="afmoe",
    rules=(
        *decoder.RULES,
        Rope(("default", "yarn")),
        Windows(period=4),
        Count("leading_dense_block_count", "num_dense_layers", most=10_000, least=0),
        *moe.counts("num_experts"),
        Count("expert_shared_count", "num_shared_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Constant("expert_gating_func", u32(moe.SIGMOID)),
        Constant("expert_weights_norm", boolean(True)),
        Number("expert_weights_scale", "route_scale"),
        Fixed("mup_enabled", True),
        Fixed("route_norm", True),
        Fixed("score_func", "sigmoid"),
        Fixed("n_group", 1),
        Fixed("topk_group", 1),
        Fixed("attention_bias", False),
    ),
    dimensions=moe.with_shared_experts,
    outside=decoder.OUTSIDE,
    block=_block,
    without_effect=("global_attn_every_n_layers",),  # layer_types are made of it
)
