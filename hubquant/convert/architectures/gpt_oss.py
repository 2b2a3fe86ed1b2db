"""GPT-OSS: a sink of attention in each head, windows in every other layer, experts with biases, perhaps in MXFP4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.checkpoint.mxfp4 import BLOCKS, SCALES, RepackMXFP4, UnpackMXFP4
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.head_order import Deinterleave
from hubquant.convert.operations import Dimensions, Transpose, always
from hubquant.convert.rules.mxfp4 import WholeBlocks
from hubquant.convert.rules.rule import Count, Fixed
from hubquant.convert.rules.windows import Windows
from hubquant.convert.rules.yarn import UntruncatedYarn
from hubquant.convert.tables import Row, Tensors, linear, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_APART = always(Deinterleave(axis=1))
_UNPACK, _REPACK = always(UnpackMXFP4()), always(RepackMXFP4())
_GATE_AND_UP = {
    "ffn_gate_exps.weight": ("n_expert", "n_ff_exp", "n_embd"),
    "ffn_up_exps.weight": ("n_expert", "n_ff_exp", "n_embd"),
}
_GIVEN, _COMPUTED = 2 * (moe.given_to("mlp.experts"),), (moe.computed_in("mlp.experts"),)
_DOWN = {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff_exp")}
_FLOATS: tuple[Row, ...] = (
    Tensors(("mlp.experts.gate_up_proj",), _GATE_AND_UP, (always(Transpose()), _APART), taps=_GIVEN),
    Tensors(("mlp.experts.down_proj",), _DOWN, (always(Transpose()),), taps=_COMPUTED),
)


def _packed(name: str) -> tuple[str, str]:
    return f"mlp.experts.{name}{BLOCKS}", f"mlp.experts.{name}{SCALES}"


_PACKED: tuple[Row, ...] = (
    Tensors(_packed("gate_up_proj"), _GATE_AND_UP, (_UNPACK, _APART), "MXFP4", (_REPACK, _APART), taps=_GIVEN),
    Tensors(_packed("down_proj"), _DOWN, (_UNPACK,), "MXFP4", (_REPACK,), taps=_COMPUTED),
)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return moe.dimensions(config, config.num_local_experts, config.intermediate_size)


def _block(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *decoder.attention(bias=True, output_bias=True),
        Tensors(("self_attn.sinks",), {"attn_sinks.weight": ("n_head",)}),
        norm("post_attention_layernorm"),
        linear("mlp.router", "n_expert", "n_embd", bias=True),
        *(_PACKED if getattr(config, "quantization_config", None) else _FLOATS),
        Tensors(
            ("mlp.experts.gate_up_proj_bias",),
            {"ffn_gate_exps.bias": ("n_expert", "n_ff_exp"), "ffn_up_exps.bias": ("n_expert", "n_ff_exp")},
            (_APART,),
        ),
        Tensors(("mlp.experts.down_proj_bias",), {"ffn_down_exps.bias": ("n_expert", "n_embd")}),
    )


GPT_OSS = Architecture(
    name="gpt-oss",
    classes={"GptOssForCausalLM": "gpt_oss"},
    restored_as="gpt_oss",
    rules=(
        *decoder.RULES,
        UntruncatedYarn(("default", "yarn")),
        Windows(period=2),
        *moe.counts("num_local_experts"),
        Count("expert_feed_forward_length", "intermediate_size"),
        WholeBlocks(("hidden_size", "intermediate_size")),
        Fixed("attention_bias", True),
        Fixed("swiglu_alpha", 1.702),
        Fixed("swiglu_limit", 7.0),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=_block,
    quantized=("mxfp4",),
)
