"""Qwen3.5 and Qwen3.5-MoE: Qwen3-Next with the delta net's projections apart, dense or with experts.

llama.cpp gives a key head to every n-th value head where
transformers gives it to n neighbours, so that value heads change places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.ahead import QWEN_NAMES, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, gated_delta, moe, qwen3_next
from hubquant.convert.head_order import tile_heads
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import Count
from hubquant.convert.rules.sections import SectionedRope
from hubquant.convert.tables import Module, Place, Row, inputs_of, linear
from hubquant.models.taps.tap import Reordered, Tap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TILED_COLUMNS = tile_heads(axis=1)


def _tiled_values(place: Place) -> Tap:
    """Value heads, which change places, flow out of the delta net."""
    sizes = place.dimensions
    return Reordered(inputs_of("linear_attn.out_proj")(place), _TILED_COLUMNS(sizes), sizes["n_values"])


_PROJECTIONS: tuple[Row, ...] = (
    linear("linear_attn.in_proj_qkv", "n_qkv", "n_embd", operations=(tile_heads(start="n_keys_2"),)),
    linear("linear_attn.in_proj_z", "n_values", "n_embd", operations=(tile_heads(),)),
    linear("linear_attn.in_proj_b", "n_value", "n_embd", operations=(tile_heads(),)),
    linear("linear_attn.in_proj_a", "n_value", "n_embd", operations=(tile_heads(),)),
    Module("linear_attn.out_proj", ("n_embd", "n_values"), tap=_tiled_values, operations=(_TILED_COLUMNS,)),
)


def _layers(*feed_forward: Row) -> gated_delta.Layers:
    return gated_delta.Layers(
        _PROJECTIONS, feed_forward, by_head=(tile_heads(),), by_channel=(tile_heads(start="n_keys_2"),)
    )


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**decoder.dimensions(config), **gated_delta.dimensions(config)}


_DENSE = _layers(*decoder.gated_mlp())
_SINGLE = _layers(*moe.routed(), *qwen3_next.SHARED)
_STACKED = _layers(*moe.routed_stacked(), *qwen3_next.SHARED)
_STACK = "mlp.experts.gate_up_proj"
_RULES = (*gated_delta.RULES, SectionedRope(("default", "yarn"), partial=True))

QWEN3_5 = Architecture(
    name="qwen35",
    classes={"Qwen3_5ForCausalLM": "qwen3_5_text"},
    restored_as="qwen3_5_text",
    rules=(*_RULES, Count("feed_forward_length", "intermediate_size")),
    dimensions=_dimensions,
    outside=gated_delta.OUTSIDE,
    block=_DENSE,
    ahead=Ahead(_DENSE.ahead, QWEN_NAMES),
)
QWEN3_5_MOE = Architecture(
    name="qwen35moe",
    classes={"Qwen3_5MoeForCausalLM": "qwen3_5_moe_text"},
    restored_as="qwen3_5_moe_text",
    rules=(*_RULES, *qwen3_next.EXPERTS),
    dimensions=qwen3_next.dimensions,
    outside=gated_delta.OUTSIDE,
    block=_SINGLE,
    otherwise=(f"model.layers.0.{_STACK}", _STACKED),
    ahead=Ahead(_SINGLE.ahead, QWEN_NAMES, otherwise=(_STACK, _STACKED.ahead)),
)
