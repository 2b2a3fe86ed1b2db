"""GLM-4, and what reads in GLM-4V: gate and up projection as one matrix; in the models of 0414 norms before and behind
both halves of a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.convert.ahead import HEAD, Ahead
from hubquant.convert.architecture import Architecture, Block, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.head_order import halves_of_pairs
from hubquant.convert.operations import Dimensions, OperationFor
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import head_size
from hubquant.convert.rules.sections import SECTIONS_KEY, Sections
from hubquant.convert.tables import linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    rotated = int(head_size(config) * config.rope_parameters.get("partial_rotary_factor", 1.0))
    return {**decoder.dimensions(config), "n_ff_both": 2 * config.intermediate_size, "n_rot": rotated}


def _block(queries: tuple[OperationFor, ...] = (), keys: tuple[OperationFor, ...] = (), *, around: bool) -> Block:
    """``around``: with norms behind both halves of a layer."""
    return every_layer(
        norm("input_layernorm"),
        linear("self_attn.q_proj", "n_embd_q", "n_embd", "attention_bias", queries),
        linear("self_attn.k_proj", "n_embd_kv", "n_embd", "attention_bias", keys),
        linear("self_attn.v_proj", "n_embd_kv", "n_embd", "attention_bias"),
        linear("self_attn.o_proj", "n_embd", "n_embd_q"),
        *([norm("post_self_attn_layernorm")] if around else []),
        norm("post_attention_layernorm"),
        linear("mlp.gate_up_proj", "n_ff_both", "n_embd"),
        linear("mlp.down_proj", "n_embd", "n_ff"),
        *([norm("post_mlp_layernorm")] if around else []),
    )


CHATGLM = Architecture(
    name="chatglm",
    classes={"GlmForCausalLM": "glm"},
    restored_as="glm",
    rules=(*decoder.RULES_OF_WHOLE_HEADS, Rope(("default",), partial=True)),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block(around=False),
)
GLM4 = Architecture(
    name="glm4",
    classes={"Glm4ForCausalLM": "glm4"},
    restored_as="glm4",
    rules=(*decoder.RULES, Rope(("default",), partial=True)),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block(around=True),
)
GLM4_V = replace(
    GLM4,
    classes={"Glm4vForConditionalGeneration": "glm4", "GlmOcrForConditionalGeneration": "glm4"},
    rules=(*GLM4.rules, Sections((8, 12, 12))),
    block=_block(*((halves_of_pairs(heads, "n_rot"),) for heads in ("n_head", "n_head_kv")), around=True),
    marker=SECTIONS_KEY,
)
"""llama.cpp rotates halves where there are sections."""
GLM_OCR = replace(
    GLM4,
    classes={"GlmOcrForConditionalGeneration": "glm4"},
    ahead=Ahead(lambda config: (*GLM4.block(config, 0), *HEAD)),
)
"""Without sections, as llama.cpp's converter has it, which keeps the layer that predicts a further token although
llama.cpp does not run it."""
