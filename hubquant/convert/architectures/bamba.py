"""Bamba: Granite 4's hybrid layers with rope on the first half of each head, and without factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, mamba
from hubquant.convert.head_order import HalvesOfPairs
from hubquant.convert.operations import Dimensions, Inverse, OperationFor
from hubquant.convert.rules.heads_by_layer import HeadsByLayer, attends, first_layer
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Constant, Epsilon
from hubquant.convert.tables import Row, linear, norm
from hubquant.gguf_file.metadata import boolean

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ROTATES = "rope.scaling.finetuned"  # what llama.cpp tells it by


def _indices(layers: Sequence[bool]) -> dict[str, Any]:
    return {"attn_layer_indices": [layer for layer, here in enumerate(layers) if here]}


def _pairs(heads: str) -> tuple[OperationFor, ...]:
    """The rotated half of each head, from rotate-half order to pairs that lie together."""
    return (lambda sizes: Inverse(HalvesOfPairs(sizes[heads], sizes["n_embd_head"] // 2)),)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    sizes = dict(decoder.dimensions(config))
    states = mamba.state_dimensions2(
        2 * config.hidden_size, config.mamba_d_state, config.mamba_d_conv, config.mamba_n_heads, config.mamba_n_groups
    )
    return first_layer({**sizes, "n_head_kv_all": sizes["n_head_kv"], **states}, config)


_ATTENTION: tuple[Row, ...] = (
    linear("self_attn.q_proj", "n_embd_q", "n_embd", "attention_bias", _pairs("n_head")),
    linear("self_attn.k_proj", "n_embd_kv", "n_embd", "attention_bias", _pairs("n_head_kv_all")),
    linear("self_attn.v_proj", "n_embd_kv", "n_embd", "attention_bias"),
    linear("self_attn.o_proj", "n_embd", "n_embd_q", "attention_bias"),
)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (
        norm("input_layernorm"),
        *(_ATTENTION if attends(config, layer) else mamba.whole_mixer2("mamba")),
        norm("pre_ff_layernorm", stem="ffn_norm"),
        linear("feed_forward.gate_proj", "n_ff", "n_embd", "mlp_bias", stem="ffn_gate"),
        linear("feed_forward.up_proj", "n_ff", "n_embd", "mlp_bias", stem="ffn_up"),
        linear("feed_forward.down_proj", "n_embd", "n_ff", "mlp_bias", stem="ffn_down"),
    )


BAMBA = Architecture(
    name="granitehybrid",
    classes={"BambaForCausalLM": "bamba"},
    restored_as="bamba",
    rules=(
        *decoder.SIZES,
        HeadsByLayer(_indices),
        Rope(("default",), partial=True),
        Constant(_ROTATES, boolean(True)),
        Epsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        SILU,
        *mamba.STATES_BESIDE_ATTENTION,
    ),
    dimensions=_dimensions,
    outside=(*decoder.OUTSIDE[:1], norm("model.final_layernorm")),
    block=_block,
    marker=(_ROTATES, True),
    layout=("attention_bias",),
    without_effect=("attn_layer_indices", "z_loss_coefficient"),  # layer_types are made of the first
)
