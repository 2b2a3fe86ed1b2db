"""Phi-3, 3.5 and 4: fused projections and LongRoPE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.longrope import LongRope, rope_factors, told_by_factors
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.windows import WrittenWindow
from hubquant.convert.tables import linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = decoder.dimensions(config)
    return {**sizes, "n_qkv": sizes["n_embd_q"] + 2 * sizes["n_embd_kv"], "n_ff_both": 2 * sizes["n_ff"]}


PHI3 = Architecture(
    name="phi3",
    classes={"Phi3ForCausalLM": "phi3"},
    restored_as="phi3",
    rules=(*decoder.RULES_OF_WHOLE_HEADS, LongRope(Rope(("default",), partial=True)), WrittenWindow()),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(
        norm("input_layernorm"),
        linear("self_attn.qkv_proj", "n_qkv", "n_embd"),
        linear("self_attn.o_proj", "n_embd", "n_embd_q"),
        norm("post_attention_layernorm"),
        linear("mlp.gate_up_proj", "n_ff_both", "n_embd"),
        linear("mlp.down_proj", "n_embd", "n_ff"),
    ),
    constants=rope_factors,
    told_by_tensors=told_by_factors,
)
