"""Jamba: Mamba's mixer in most layers, attention without rope in the others, experts in some of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, mamba, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.heads_by_layer import HeadsByLayer, attends, first_layer, periodic
from hubquant.convert.rules.rule import SILU, Count, Epsilon, Fixed, Settings
from hubquant.convert.rules.state_space import CountOrAutomatic, TwiceAsWide
from hubquant.convert.tables import Embeddings, Place, Row, linear, norm
from hubquant.models.taps.tap import ModuleOutput, Tap

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_ATTENTION: tuple[Row, ...] = (*decoder.attention(),)


def _steps(place: Place) -> Tap:
    return ModuleOutput(f"{place.prefix}mamba.dt_layernorm")


_MIXER: tuple[Row, ...] = (
    *mamba.mixer("mamba", _steps),
    norm("mamba.dt_layernorm", "n_dt"),
    norm("mamba.b_layernorm", "n_state"),
    norm("mamba.c_layernorm", "n_state"),
)
_DENSE: tuple[Row, ...] = (
    linear("feed_forward.gate_proj", "n_ff", "n_embd"),
    linear("feed_forward.up_proj", "n_ff", "n_embd"),
    linear("feed_forward.down_proj", "n_embd", "n_ff"),
)
_EXPERTS = moe.routed("feed_forward.router", "feed_forward.experts")


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *(_ATTENTION if attends(config, layer) else _MIXER),
        norm("pre_ff_layernorm"),
        *(_EXPERTS if config.layers_num_experts[layer] > 1 else _DENSE),
    )


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    inner, state, conv, rank = 2 * config.hidden_size, config.mamba_d_state, config.mamba_d_conv, config.mamba_dt_rank
    sizes = {**moe.dimensions(config, config.num_experts, config.intermediate_size)}
    return first_layer({**sizes, **mamba.state_dimensions(inner, state, conv, rank)}, config)


def _attention_layers(layers: Sequence[bool]) -> dict[str, Any]:
    period, offset = periodic(layers)
    return {"attn_layer_period": period, "attn_layer_offset": offset}


def _expert_layers(tensors: Mapping[str, torch.Tensor], settings: Settings) -> dict[str, Any]:
    n_layer = settings.get("num_hidden_layers")
    layers = range(min(n_layer, 10_000) if isinstance(n_layer, int) else 0)
    period, offset = periodic([f"blk.{layer}.ffn_gate_inp.weight" in tensors for layer in layers])
    return {"expert_layer_period": period, "expert_layer_offset": offset}


JAMBA = Architecture(
    name="jamba",
    classes={"JambaForCausalLM": "jamba"},
    restored_as="jamba",
    rules=(
        *decoder.SIZES,
        HeadsByLayer(_attention_layers),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        *moe.counts("num_experts"),
        Count("ssm.conv_kernel", "mamba_d_conv", most=1 << 10),
        TwiceAsWide("mamba_expand"),
        Count("ssm.state_size", "mamba_d_state", most=1 << 16),
        CountOrAutomatic("ssm.time_step_rank", "mamba_dt_rank"),
        Fixed("mamba_conv_bias", True),
        Fixed("mamba_proj_bias", False),
    ),
    dimensions=_dimensions,
    outside=(Embeddings(), norm("model.final_layernorm")),
    block=_block,
    told_by_tensors=_expert_layers,
    layout=("attn_layer_period", "attn_layer_offset", "expert_layer_period", "expert_layer_offset"),
)
