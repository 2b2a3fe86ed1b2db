"""Ling and Ring 2.0 (Bailing MoE V2), whose code is not part of transformers: GLM-4.5 with norms of heads, and queries,
keys and values in one matrix.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.ahead import JOINED, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Fixed, Settings, out_of_range
from hubquant.convert.tables import Embeddings, Row, Tensors, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {"num_experts": "n_routed_experts", "num_shared_experts": "n_shared_experts"}
_SHARED_WIDTH = "moe_shared_expert_intermediate_size"


def _as_glm(settings: Settings) -> dict[str, Any]:
    result = {_NAMES.get(name, name): value for name, value in settings.items() if name != _SHARED_WIDTH}
    width, shared = settings.get("moe_intermediate_size"), settings.get("num_shared_experts")
    if settings.get(_SHARED_WIDTH) not in (None, width) or shared != 1:
        raise out_of_range("num_shared_experts", shared, f"1, as wide as the {width} of the other experts")
    return {"partial_rotary_factor": 0.5, **result, "use_qk_norm": True}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = moe.with_dense_layers(config)
    return {**sizes, "n_qkv": sizes["n_embd_q"] + 2 * sizes["n_embd_kv"]}


_ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    linear("attention.query_key_value", "n_qkv", "n_embd"),
    linear("attention.dense", "n_embd", "n_embd_q"),
    norm("attention.query_layernorm", "n_embd_head"),
    norm("attention.key_layernorm", "n_embd_head"),
    norm("post_attention_layernorm"),
)
_EXPERTS: tuple[Row, ...] = (
    *moe.routed(),
    *moe.shared("mlp.shared_experts"),
    Tensors(("mlp.gate.expert_bias",), {"exp_probs_b.bias": ("n_expert",)}),
)


BAILING_MOE2 = Architecture(
    name="bailingmoe2",
    classes={"BailingMoeV2ForCausalLM": "glm4_moe"},
    restored_as="glm4_moe",
    rules=(
        *decoder.RULES_OF_WHOLE_HEADS,
        Rope(("default", "yarn"), partial=True),
        *moe.WITH_DENSE_LAYERS,
        *moe.SIGMOID_IN_GROUPS,
        Count("expert_shared_feed_forward_length", "moe_intermediate_size"),
        Fixed("use_qk_norm", True),
        Fixed("score_function", "sigmoid"),
        Fixed("moe_router_enable_expert_bias", True),
        Fixed("use_qkv_bias", False),
        Fixed("use_bias", False),
        Fixed("attention_bias", False),
        Fixed("norm_head", False),
        Fixed("use_rmsnorm", True),
        Fixed("router_dtype", "fp32"),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("model.word_embeddings", both=True), norm("model.norm")),
    block=moe.behind_dense(_ATTENTION, _EXPERTS),
    ahead=Ahead(lambda _: (*_ATTENTION, *_EXPERTS, *JOINED, norm("final_layernorm", stem="layer_output_norm"))),
    translate=_as_glm,
    translated=(*_NAMES, _SHARED_WIDTH),
    own_code=True,
)
SARVAM_MOE = replace(
    BAILING_MOE2,
    classes=dict.fromkeys(("SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"), "glm4_moe"),
    translate=lambda settings: _as_glm({"partial_rotary_factor": 1.0, **settings}),
)
"""Whole heads rotate. Its code takes the mean off the router's bias, which chooses the same experts."""
