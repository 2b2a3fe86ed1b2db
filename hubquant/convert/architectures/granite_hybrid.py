"""Granite 4: Mamba 2's mixer in most layers, attention without positions in the others, and one or many experts; or
attention with rope in every layer, which llama.cpp calls Granite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, granite, llama, mamba, moe
from hubquant.convert.head_order import interleave_halves
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.heads_by_layer import FULL, LINEAR, HeadsByLayer, attends, first_layer
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Constant, Count, Epsilon, Fixed, Rule, Settings, integer
from hubquant.convert.tables import Module, Row, norm
from hubquant.gguf_file.metadata import Metadata, boolean, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FEED_FORWARD = Count("feed_forward_length", "intermediate_size")
# llama-quantize counts no key-value heads where the first layer has none
_ATTENTION: tuple[Row, ...] = tuple(
    replace(row, operations=(interleave_halves("n_head_kv_all"),))
    if isinstance(row, Module) and row.name == "self_attn.k_proj"
    else row
    for row in llama.ATTENTION
)
_OF_MIXER = (
    *("mamba_n_heads", "mamba_d_head", "mamba_n_groups", "mamba_d_state", "mamba_d_conv", "mamba_expand"),
    *("mamba_conv_bias", "mamba_proj_bias", "time_step_limit"),
)


class _Width(Rule):
    """The width of each expert; where there are none, of the one that every token passes."""

    reads = ("intermediate_size", "shared_intermediate_size")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        width = config.intermediate_size if config.num_local_experts else config.shared_intermediate_size
        return {"feed_forward_length": u32(width)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {"intermediate_size": integer(metadata, "feed_forward_length")}


class _Used(Count):
    """llama.cpp loads no file that uses some of no experts."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {self.key: u32(config.num_experts_per_tok if config.num_local_experts else 0)}


def _layer_types(layers: Sequence[bool]) -> dict[str, Any]:
    return {"layer_types": [FULL if here else LINEAR for here in layers]}


def _whole(settings: Settings) -> bool:
    """Whether attention is in every layer, by its older name or by the one of today."""
    kinds = settings.get("layer_types") or settings.get("layers_block_type")
    return isinstance(kinds, list) and bool(kinds) and all(kind in ("attention", FULL) for kind in kinds)


_DENSE = granite.shared("ffn_gate", "ffn_up", "ffn_down", size="n_ff_shexp")
_ROUTED = (*granite.EXPERTS, *granite.SHARED)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    experts, width = config.num_local_experts, config.shared_intermediate_size
    sizes = {**moe.dimensions(config, experts, config.intermediate_size, width)}
    states = mamba.state_dimensions2(
        2 * config.hidden_size, config.mamba_d_state, config.mamba_d_conv, config.mamba_n_heads, config.mamba_n_groups
    )
    sizes["n_head_kv_all"] = sizes["n_head_kv"]
    return first_layer({**sizes, "n_ff": config.intermediate_size if experts else width, **states}, config)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    mixer = (norm("input_layernorm"), *mamba.whole_mixer2("mamba"), norm("post_attention_layernorm"))
    return (
        *(_ATTENTION if attends(config, layer) else mixer),
        *(_ROUTED if config.num_local_experts else _DENSE),
    )


GRANITE_HYBRID = Architecture(
    name="granitehybrid",
    classes={"GraniteMoeHybridForCausalLM": "granitemoehybrid"},
    restored_as="granitemoehybrid",
    rules=(
        *mamba.SIZES,
        _Width(),
        HeadsByLayer(_layer_types),
        Rope(),
        Constant("rope.scaling.finetuned", boolean(False)),
        Fixed("position_embedding_type", None, same=("nope",)),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        *granite.SCALES,
        Count("expert_count", "num_local_experts", most=moe.MOST_EXPERTS, least=0),
        _Used("expert_used_count", "num_experts_per_tok", most=moe.MOST_EXPERTS, least=0),
        Count("expert_shared_feed_forward_length", "shared_intermediate_size"),
        *mamba.STATES_BESIDE_ATTENTION,
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    layout=("attention_bias",),
    without_effect=("max_position_embeddings",),
)
GRANITE_4 = replace(
    granite.GRANITE,
    classes={"GraniteMoeHybridForCausalLM": "granitemoehybrid"},
    rules=(
        *(rule for rule in granite.GRANITE.rules if rule != _FEED_FORWARD),
        Count("feed_forward_length", "shared_intermediate_size"),
        Fixed("position_embedding_type", "rope"),
        Fixed("num_local_experts", 0),
    ),
    dimensions=lambda config: {**decoder.dimensions(config), "n_ff_shexp": config.shared_intermediate_size},
    block=every_layer(*llama.ATTENTION, *_DENSE),
    takes=_whole,
    layout=("layer_types",),
    without_effect=("intermediate_size", "num_experts_per_tok", *_OF_MIXER),
)
