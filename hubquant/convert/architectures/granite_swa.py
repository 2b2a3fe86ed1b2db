"""Granite with windows in some layers, a sink of attention in each head, and perhaps layers without positions; dense or
with experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.convert.architecture import every_layer
from hubquant.convert.architectures import decoder, granite, llama, mixtral, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import RopeOrNone, WindowsByLayer
from hubquant.convert.rules.rule import Count
from hubquant.convert.tables import Row, Tensors, inputs_of, linear

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SINKS = Tensors(("self_attn.sinks",), {"attn_sinks.weight": ("n_head",)})
_SHARED: tuple[Row, ...] = (
    Tensors(
        ("shared_mlp.input_linear.weight",),
        {"ffn_up_shexp.weight": ("n_ff_shexp_both", "n_embd")},
        taps=(inputs_of("shared_mlp.input_linear"),),
    ),
    granite.SHARED[1],
)
"""llama.cpp keeps gate and up in one matrix here."""
_EXPERTS: tuple[Row, ...] = (
    linear("block_sparse_moe.router", "n_expert", "n_embd", stem="ffn_gate_inp"),
    *moe.stacked("block_sparse_moe.experts"),
)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.shared_intermediate_size
    sizes = moe.dimensions(config, config.num_local_experts, config.intermediate_size, width)
    return {**sizes, "n_ff_shexp_both": 2 * width}


def _block(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    return (*llama.ATTENTION, _SINKS, *_EXPERTS, *(_SHARED if config.shared_intermediate_size else ()))


GRANITE_SWA = replace(
    granite.GRANITE,
    name="granite_swa",
    classes={"GraniteSWAForCausalLM": "granite_swa"},
    restored_as="granite_swa",
    rules=(*granite.RULES, WindowsByLayer(), RopeOrNone()),
    block=every_layer(*llama.ATTENTION, _SINKS, *decoder.gated_mlp(bias="mlp_bias")),
)
GRANITE_MOE_SWA = replace(
    GRANITE_SWA,
    classes={"GraniteMoeSWAForCausalLM": "granitemoe_swa"},
    restored_as="granitemoe_swa",
    rules=(
        *GRANITE_SWA.rules,
        *mixtral.COUNTS,
        Count("expert_shared_feed_forward_length", "shared_intermediate_size", least=0),
    ),
    dimensions=_dimensions,
    block=_block,
    renames=(
        (r"\.block_sparse_moe\.router\.layer\.", ".block_sparse_moe.router."),
        (r"\.block_sparse_moe\.input_linear\.weight$", ".block_sparse_moe.experts.gate_up_proj"),
        (r"\.block_sparse_moe\.output_linear\.weight$", ".block_sparse_moe.experts.down_proj"),
    ),
    marker="expert_count",
)
