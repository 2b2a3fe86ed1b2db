"""CodeShell, whose code is not part of transformers: StarCoder 2 with queries, keys and values in one matrix."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.architectures.starcoder2 import STARCODER2
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Fixed, Settings
from hubquant.convert.tables import Embeddings, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "num_query_groups": "num_key_value_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "norm_epsilon",
    "activation_function": "hidden_act",
}


def _as_starcoder2(settings: Settings) -> dict[str, Any]:
    named = {_NAMES.get(name, name): value for name, value in settings.items()}
    if named.get("intermediate_size") is None and type(named.get("hidden_size")) is int:
        named["intermediate_size"] = 4 * named["hidden_size"]
    return {"tie_word_embeddings": True, "sliding_window": None, **named}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {**sizes, "n_qkv": sizes["n_embd_q"] + 2 * sizes["n_embd_kv"]}


CODESHELL = replace(
    STARCODER2,
    name="codeshell",
    classes={"CodeShellForCausalLM": "starcoder2"},
    rules=(
        *STARCODER2.rules,
        Fixed("position_embedding_type", "rope"),
        Fixed("group_query_attention", True),
        Fixed("scale_attn_weights", True),
    ),
    dimensions=_dimensions,
    outside=(Embeddings("transformer.wte", both=True), norm("transformer.ln_f", bias=True)),
    block=every_layer(
        norm("ln_1", bias=True),
        linear("attn.c_attn", "n_qkv", "n_embd", bias=True),
        linear("attn.c_proj", "n_embd", "n_embd", bias=True),
        norm("ln_2", bias=True),
        linear("mlp.c_fc", "n_ff", "n_embd", bias=True),
        linear("mlp.c_proj", "n_embd", "n_ff", bias=True),
    ),
    blocks="transformer.h",
    ignored=(r"\.rotary_emb\.inv_freq$", r"\.attn\.rotary_emb\."),
    translate=_as_starcoder2,
    translated=tuple(_NAMES),
    own_code=True,
)
