"""Mellum 2: Qwen3-MoE with windows in three of four layers, which have no scaling of rope."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe, qwen3
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Count, Fixed, Settings
from hubquant.convert.rules.windows import UnscaledInWindows, Windows
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class _ExpertsEverywhere(moe.DenseLayersFirst):
    """Every layer has experts."""

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if moe.DENSE in (settings.get("mlp_layer_types") or ()):
            raise NotSupportedYet("mlp_layer_types with dense layers", why="llama.cpp has experts in every layer here")


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return moe.dimensions(config, config.num_experts, config.moe_intermediate_size)


MELLUM = Architecture(
    name="mellum",
    classes={"MellumForCausalLM": "mellum"},
    restored_as="mellum",
    rules=(
        *decoder.RULES,
        UnscaledInWindows(Rope(("default", "yarn"))),
        Windows(period=4),
        _ExpertsEverywhere(),
        *moe.counts("num_experts"),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Fixed("norm_topk_prob", True),
        Fixed("attention_bias", False),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=every_layer(*qwen3.ATTENTION, *moe.routed()),
    without_effect=("mtp_layer_types", "mtp_mlp_layer_types"),
)
