"""Grok 1, whose code is not part of transformers: norms before and behind attention and experts, capped attention, and
factors on embeddings and logits. Mixtral's config stands for its own.

The weights of the chosen experts are not brought to a sum of 1, as llama.cpp does it: the norm behind the experts makes
both the same.
"""

from __future__ import annotations

from typing import Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, mixtral, moe
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Epsilon, Fixed, Heads, Number, Settings, check_count
from hubquant.convert.tables import Embeddings, Experts, linear, norm

_SCALES = {
    "embedding_scale": "embedding_multiplier_scale",
    "logit_scale": "output_multiplier_scale",
    "attention.output_scale": "attn_output_multiplier",
    "attn_logit_softcapping": "max_attn_value",
}
_DEFAULTS: dict[str, Any] = {
    "embedding_multiplier_scale": 6144**0.5,
    "output_multiplier_scale": 3**-0.5,
    "attn_output_multiplier": 128**-0.5,
    "max_attn_value": 30.0,
    "max_position_embeddings": 8192,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def _translated(settings: Settings) -> dict[str, Any]:
    check_count(settings, "num_experts", moe.MOST_EXPERTS)
    named = {name: value for name, value in settings.items() if name != "num_experts"}
    return {**_DEFAULTS, "num_local_experts": settings.get("num_experts") or 8, "sliding_window": None, **named}


GROK = Architecture(
    name="grok",
    classes={"GrokForCausalLM": "mixtral"},
    restored_as="mixtral",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Rope(("default",)),
        Fixed("sliding_window", None),
        *mixtral.COUNTS,
        *(Number(key, setting) for key, setting in _SCALES.items()),
    ),
    dimensions=mixtral.dimensions,
    outside=(Embeddings(embedding="transformer.in_out_embed"), norm("transformer.rms_norm", stem="output_norm")),
    block=every_layer(
        norm("rms_norm", stem="attn_norm"),
        linear("multi_head_attention.query", "n_embd_q", "n_embd", stem="attn_q"),
        linear("multi_head_attention.key", "n_embd_kv", "n_embd", stem="attn_k"),
        linear("multi_head_attention.value", "n_embd_kv", "n_embd", stem="attn_v"),
        linear("multi_head_attention.linear", "n_embd", "n_embd_q", stem="attn_output"),
        norm("rms_norm_1", stem="attn_output_norm"),
        norm("rms_norm_2", stem="ffn_norm"),
        linear("router", "n_expert", "n_embd", stem="ffn_gate_inp"),
        Experts("moe.{}.linear", "n_ff_exp", "n_embd", moe.given_to("moe"), stem="ffn_gate_exps"),
        Experts("moe.{}.linear_v", "n_ff_exp", "n_embd", moe.given_to("moe"), stem="ffn_up_exps"),
        Experts("moe.{}.linear_1", "n_embd", "n_ff_exp", moe.computed_in("moe"), stem="ffn_down_exps"),
        norm("rms_norm_3", stem="layer_output_norm"),
    ),
    blocks="transformer.decoder_layer",
    translate=_translated,
    translated=("num_experts",),
    without_effect=("hidden_act",),
    own_code=True,
)
