"""GLM-4: gate and up projection as one matrix; in the models of 0414 norms before and behind both halves of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.tables import Row, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**decoder.dimensions(config), "n_ff_both": 2 * config.intermediate_size}


_ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    linear("self_attn.q_proj", "n_embd_q", "n_embd", "attention_bias"),
    linear("self_attn.k_proj", "n_embd_kv", "n_embd", "attention_bias"),
    linear("self_attn.v_proj", "n_embd_kv", "n_embd", "attention_bias"),
    linear("self_attn.o_proj", "n_embd", "n_embd_q"),
)
_FEED_FORWARD: tuple[Row, ...] = (
    norm("post_attention_layernorm"),
    linear("mlp.gate_up_proj", "n_ff_both", "n_embd"),
    linear("mlp.down_proj", "n_embd", "n_ff"),
)
CHATGLM = Architecture(
    name="chatglm",
    classes={"GlmForCausalLM": "glm"},
    restored_as="glm",
    rules=(*decoder.RULES_OF_WHOLE_HEADS, Rope(("default",), partial=True)),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_ATTENTION, *_FEED_FORWARD),
)
GLM4 = Architecture(
    name="glm4",
    classes={"Glm4ForCausalLM": "glm4"},
    restored_as="glm4",
    rules=(*decoder.RULES, Rope(("default",), partial=True)),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_ATTENTION, norm("post_self_attn_layernorm"), *_FEED_FORWARD, norm("post_mlp_layernorm")),
)
