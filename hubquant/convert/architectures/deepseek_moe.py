"""DeepSeek MoE of 2024 and Ling 1 (Bailing MoE), whose code is not part of transformers: Llama's attention, experts
weighed by a softmax beside some that every token passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, llama, moe
from hubquant.convert.head_order import InterleaveHalves
from hubquant.convert.operations import Beside, Dimensions, Scale, split
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Count, Fixed, Rule, Settings, Switch
from hubquant.convert.tables import Embeddings, Row, Tensors, linear, norm
from hubquant.gguf_file.metadata import f32

_RULES: tuple[Rule, ...] = (
    *decoder.RULES_OF_WHOLE_HEADS,
    Rope(("default",)),
    moe.DENSE_BY_COUNT,
    *moe.counts("n_routed_experts"),
    Count("expert_shared_count", "n_shared_experts", most=moe.MOST_EXPERTS),
    Count("expert_feed_forward_length", "moe_intermediate_size"),
    Constant("expert_weights_scale", f32(1.0)),
    Fixed("attention_bias", False),
    Fixed("n_group", 1),
    Fixed("topk_group", 1),
    Fixed("routed_scaling_factor", 1.0),
    Fixed("use_qk_norm", False),
)
_EXPERTS: tuple[Row, ...] = (*moe.routed(), *moe.shared("mlp.shared_experts"))

DEEPSEEK = Architecture(
    name="deepseek",
    classes={"DeepseekForCausalLM": "glm4_moe"},
    restored_as="glm4_moe",
    rules=(
        *_RULES,
        Fixed("norm_topk_prob", False),
        Fixed("scoring_func", "softmax"),
        Fixed("moe_layer_freq", 1),
    ),
    dimensions=moe.with_dense_layers,
    outside=decoder.OUTSIDE,
    block=moe.behind_dense(llama.ATTENTION, _EXPERTS),
    translate=lambda settings: {"norm_topk_prob": False, "partial_rotary_factor": 1.0, **settings},
    own_code=True,
)

_NAMES = {"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"}


def _as_glm(settings: Settings) -> dict[str, Any]:
    named = {_NAMES.get(name, name): value for name, value in settings.items()}
    return {"partial_rotary_factor": 1.0, "first_k_dense_replace": 0, **named}


def _rotated(sizes: Dimensions) -> Beside:
    return Beside((InterleaveHalves(sizes["n_head"]), InterleaveHalves(sizes["n_head_kv"]), Scale((1.0,))))


BAILING_MOE = replace(
    DEEPSEEK,
    name="bailingmoe",
    classes={"BailingMoeForCausalLM": "glm4_moe"},
    rules=(
        *_RULES,
        Switch("expert_weights_norm", "norm_topk_prob"),
        Fixed("first_k_dense_replace", 0),
        Fixed("norm_head", False),
        Fixed("norm_softmax", False),
        Fixed("use_bias", False),
        Fixed("use_qkv_bias", False),
    ),
    outside=(Embeddings("model.word_embeddings", both=True), norm("model.norm")),
    block=every_layer(
        norm("input_layernorm"),
        Tensors(
            ("attention.query_key_value.weight",),
            {
                "attn_q.weight": ("n_embd_q", "n_embd"),
                "attn_k.weight": ("n_embd_kv", "n_embd"),
                "attn_v.weight": ("n_embd_kv", "n_embd"),
            },
            (split("n_embd_q", "n_embd_kv", "n_embd_kv"), _rotated),
        ),
        linear("attention.dense", "n_embd", "n_embd_q", stem="attn_output"),
        norm("post_attention_layernorm"),
        *_EXPERTS,
    ),
    translate=_as_glm,
    translated=tuple(_NAMES),
)
