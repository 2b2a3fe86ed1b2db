"""Command A of experts (Cohere 2 MoE): Cohere 2's parallel halves of a layer, with experts behind dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.ahead import HEAD, Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.by_layer import WindowsByLayer
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import (
    SILU,
    Computed,
    Count,
    Epsilon,
    Fixed,
    Heads,
    Number,
    Rule,
    Settings,
    Switch,
    integer,
)
from hubquant.convert.tables import Row, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_EPSILONS = ("attention.layer_norm_rms_epsilon", "rms_norm_eps"), ("attention.layer_norm_epsilon", "layer_norm_eps")
_ROUTING = {"sigmoid": moe.SIGMOID, "softmax": moe.SOFTMAX_OF_CHOSEN}


class _Norms(Rule):
    """Norms divide by the root of the mean square where ``rms_norm_eps`` is given, else they take the mean off too."""

    rules = tuple(Epsilon(key, setting) for key, setting in _EPSILONS)
    reads = tuple(rule.setting for rule in rules)

    def check(self, settings: Settings) -> None:
        for rule in self.rules:
            rule.check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return self.rules[config.rms_norm_eps is None].metadata(config)

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {name: value for rule in self.rules for name, value in rule.settings(metadata).items()}


@dataclass(frozen=True)
class _Routing(Rule):
    """How experts are weighed once they are chosen."""

    setting = "expert_selection_fn"

    def check(self, settings: Settings) -> None:
        value = settings.get(self.setting)
        if value is not None and str(value) not in _ROUTING:
            raise NotSupportedYet(f"{self.setting} {str(value)[:40]!r}", why=f"known here: {', '.join(_ROUTING)}")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"expert_gating_func": u32(_ROUTING[config.expert_selection_fn])}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        kind = integer(metadata, "expert_gating_func") or moe.SIGMOID
        return {self.setting: next((name for name, value in _ROUTING.items() if value == kind), "sigmoid")}


def _dense_width(config: PreTrainedConfig) -> int:
    return int(config.prefix_dense_intermediate_size or config.intermediate_size)


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.intermediate_size
    sizes = moe.dimensions(config, config.num_experts, width, width * config.num_shared_experts)
    return {**sizes, "n_ff": _dense_width(config)}


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    shared = moe.shared("mlp.shared_experts") if config.num_shared_experts else ()
    dense = moe.is_dense(config, layer)
    return (
        norm("input_layernorm"),
        *decoder.attention(),
        *(decoder.gated_mlp() if dense else (*moe.routed(), *shared)),
    )


def _ahead(config: PreTrainedConfig) -> tuple[Row, ...]:
    """With experts, as behind the dense layers."""
    return (*_block(config, config.num_hidden_layers - 1), *HEAD)


COHERE2_MOE = Architecture(
    name="cohere2moe",
    classes={"Cohere2MoeForCausalLM": "cohere2_moe"},
    restored_as="cohere2_moe",
    rules=(
        *(rule for rule in decoder.SIZES if rule != decoder.FEED_FORWARD),
        Computed("feed_forward_length", "prefix_dense_intermediate_size", _dense_width),
        Heads(),
        Rope(("default",)),
        _Norms(),
        Number("logit_scale", "logit_scale"),
        WindowsByLayer(),
        moe.DenseLayersFirst(),
        *moe.counts("num_experts"),
        Count("expert_shared_count", "num_shared_experts", most=moe.MOST_EXPERTS, least=0),
        Count("expert_feed_forward_length", "intermediate_size"),
        moe.SharedWidth(_dimensions),
        _Routing(),
        Switch("expert_weights_norm", "norm_topk_prob"),
        Fixed("shared_expert_combination_strategy", "average"),
        Fixed("prefix_dense_sliding_window_pattern", 1),
        Fixed("attention_bias", False),
        SILU,
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    ahead=Ahead(_ahead),
    without_effect=("rope_scaling", "rope_theta"),  # rope_parameters are made of them
)
