"""What decoders with a mixture of experts share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Block
from hubquant.convert.architectures import decoder
from hubquant.convert.operations import Dimensions, split
from hubquant.convert.rules.rule import (
    Constant,
    Count,
    Fixed,
    Number,
    Rule,
    Settings,
    Switch,
    check_list,
    integer,
    out_of_range,
)
from hubquant.convert.tables import Experts, Module, Place, Row, TapFor, Tensors, linear
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32
from hubquant.models.taps.experts import ExpertHidden, ExpertInput, Way
from hubquant.models.taps.tap import Tap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_EXPERTS = 1 << 16
SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = 1, 2, 3  # expert_gating_func
DENSE = "dense"


@dataclass(frozen=True)
class Groups(Rule):
    """Experts are chosen from ``topk_group`` of the ``n_group`` groups that they are in; ``total`` counts them."""

    total: str = "n_routed_experts"
    counts = (
        Count("expert_group_count", "n_group", most=MOST_EXPERTS),
        Count("expert_group_used_count", "topk_group", most=MOST_EXPERTS),
    )
    reads = tuple(each.setting for each in counts)

    def check(self, settings: Settings) -> None:
        for each in self.counts:
            each.check(settings)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        experts, groups, used = getattr(config, self.total), config.n_group, config.topk_group
        if experts % groups:
            raise out_of_range("n_group", groups, f"a divisor of the {experts} experts")
        if used > groups:
            raise out_of_range("topk_group", used, f"no more than the {groups} groups")
        if 1 < groups == experts:
            raise NotSupportedYet(f"{groups} groups for {experts} experts", why="llama.cpp wants fewer groups")
        if used == groups:  # there is nothing to choose, for which llama.cpp has one group
            groups = used = 1
        return {"expert_group_count": u32(groups), "expert_group_used_count": u32(used)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        return {name: value for each in self.counts for name, value in each.settings(metadata).items()}


@dataclass(frozen=True)
class DenseLayersFirst(Rule):
    """The layers without experts, which come first, where the config names the kind of each."""

    reads = ("mlp_layer_types",)

    def check(self, settings: Settings) -> None:
        check_list(settings, "mlp_layer_types")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        kinds = list(config.mlp_layer_types)
        dense = kinds.count(DENSE)
        if kinds != _kinds(dense, config.num_hidden_layers):
            raise NotSupportedYet("this order of dense layers", why="llama.cpp has all of them before those of experts")
        return {"leading_dense_block_count": u32(dense)}

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        n_layer = min(integer(metadata, "block_count") or 0, 10_000)
        return {"mlp_layer_types": _kinds(integer(metadata, "leading_dense_block_count") or 0, n_layer)}


@dataclass(frozen=True)
class SharedWidth(Rule):
    """The width of all the experts that every token passes, by the family's ``dimensions``: there may be none."""

    dimensions: Callable[[PreTrainedConfig], Dimensions]

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        width = self.dimensions(config)["n_ff_shexp"]
        return {"expert_shared_feed_forward_length": u32(width)} if width else {}


def _kinds(dense: int, n_layer: int) -> list[str]:
    return [DENSE if layer < dense else "sparse" for layer in range(n_layer)]


def kinds_by_tensors(tensors: Collection[str], n_layer: int) -> list[str]:
    """Which layers have experts, by the names of a file's tensors."""
    return ["sparse" if f"blk.{layer}.ffn_gate_inp.weight" in tensors else DENSE for layer in range(n_layer)]


def is_dense(config: PreTrainedConfig, layer: int) -> bool:
    """Whether the layer has no experts."""
    kinds = getattr(config, "mlp_layer_types", None)
    return bool(layer < config.first_k_dense_replace if kinds is None else kinds[layer] == DENSE)


def counts(total: str, used: str = "num_experts_per_tok") -> tuple[Count, ...]:
    """How many experts there are, and how many each token passes, by the settings that tell it."""
    return (
        Count("expert_count", total, most=MOST_EXPERTS),
        Count("expert_used_count", used, most=MOST_EXPERTS),
    )


def behind_dense(attention: tuple[Row, ...], experts: tuple[Row, ...]) -> Block:
    """Layers with ``experts`` behind those with one feed-forward layer."""

    def block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
        return (*attention, *(decoder.gated_mlp() if is_dense(config, layer) else experts))

    return block


DENSE_BY_COUNT = Count("leading_dense_block_count", "first_k_dense_replace", most=10_000, least=0)
WITH_DENSE_LAYERS: tuple[Rule, ...] = (
    DENSE_BY_COUNT,
    *counts("n_routed_experts"),
    Count("expert_shared_count", "n_shared_experts", most=MOST_EXPERTS),
    Count("expert_feed_forward_length", "moe_intermediate_size"),
    Number("expert_weights_scale", "routed_scaling_factor"),
)
SIGMOID_IN_GROUPS: tuple[Rule, ...] = (
    Constant("expert_gating_func", u32(SIGMOID)),
    Groups(),
    Switch("expert_weights_norm", "norm_topk_prob"),
    Fixed("scoring_func", "sigmoid"),
    Fixed("topk_method", "noaux_tc"),
)
BIAS = Tensors(("mlp.gate.e_score_correction_bias",), {"exp_probs_b.bias": ("n_expert",)})
"""What the router adds to the scores when it chooses experts, but not when it weighs them."""
BIAS_BESIDE = Tensors(("mlp.e_score_correction_bias",), BIAS.targets)
"""The same, as a tensor of the block."""


def dimensions(config: PreTrainedConfig, experts: int, n_ff_exp: int, n_ff_shexp: int = 0) -> Dimensions:
    """n_ff_exp and n_ff_shexp are the widths of one expert and of the experts that every token passes."""
    sizes = {"n_expert": experts, "n_ff_exp": n_ff_exp, "n_ff_shexp": n_ff_shexp, "one": 1}
    return {**decoder.dimensions(config), **sizes}


def with_dense_layers(config: PreTrainedConfig) -> Dimensions:
    """Of a decoder whose first layers have no experts."""
    width = config.moe_intermediate_size
    return dimensions(config, config.n_routed_experts or 0, width, width * (config.n_shared_experts or 0))


def with_shared_experts(config: PreTrainedConfig) -> Dimensions:
    """Of a decoder with experts that every token passes beside those that are chosen."""
    width = config.moe_intermediate_size
    return dimensions(config, config.num_experts, width, width * config.num_shared_experts)


def given_to(experts: str, way: Way = "registered") -> TapFor:
    """The tokens that each of the experts is given."""

    def tap(place: Place) -> Tap:
        return ExpertInput(place.prefix + experts, way)

    return tap


def computed_in(experts: str, way: Way = "registered") -> TapFor:
    """What each of the experts computes for its last matrix."""

    def tap(place: Place) -> Tap:
        return ExpertHidden(place.prefix + experts, way)

    return tap


def routed(
    router: str = "mlp.gate",
    experts: str = "mlp.experts",
    names: tuple[str, str, str] = decoder.GATED,
    modules: tuple[str, str] | None = None,
) -> tuple[Row, ...]:
    """The router and its experts; ``names`` are the experts' gate, up and down matrices.

    ``modules`` are the two in transformers where checkpoints call them otherwise.
    """
    gate, up, down = (f"{experts}.{{}}.{name}" for name in names)
    routing, computing = modules or (router, experts)
    first, last = f"{computing}.gate_up_proj", f"{computing}.down_proj"
    return (
        linear(router, "n_expert", "n_embd", computing=routing),
        Experts(gate, "n_ff_exp", "n_embd", given_to(computing), stem="ffn_gate_exps", stack=(first, "first")),
        Experts(up, "n_ff_exp", "n_embd", given_to(computing), stem="ffn_up_exps", stack=(first, "second")),
        Experts(
            down,
            "n_embd",
            "n_ff_exp",
            computed_in(computing),
            stem="ffn_down_exps",
            stack=(last, "all"),
        ),
    )


def stacked(experts: str = "mlp.experts") -> tuple[Row, ...]:
    """Experts that are one stack in the checkpoint too, with gates above the rest of each."""
    stack = ("n_expert", "n_ff_exp", "n_embd")
    return (
        Tensors(
            (f"{experts}.gate_up_proj",),
            {"ffn_gate_exps.weight": stack, "ffn_up_exps.weight": stack},
            (split("n_ff_exp", "n_ff_exp", axis=1),),
            taps=2 * (given_to(experts),),
        ),
        Tensors(
            (f"{experts}.down_proj",),
            {"ffn_down_exps.weight": ("n_expert", "n_embd", "n_ff_exp")},
            taps=(computed_in(experts),),
        ),
    )


def routed_stacked() -> tuple[Row, ...]:
    """The router and such experts."""
    return (linear("mlp.gate", "n_expert", "n_embd"), *stacked())


def shared(module: str, computing: str | None = None) -> tuple[Row, ...]:
    """The experts that every token passes, as one; ``computing`` is it in transformers where checkpoints call it
    otherwise."""

    def matrix(name: str, rows: str, columns: str) -> Module:
        return linear(f"{module}.{name}", rows, columns, computing=f"{computing or module}.{name}")

    gate, up, down = decoder.GATED
    return (
        matrix(gate, "n_ff_shexp", "n_embd"),
        matrix(up, "n_ff_shexp", "n_embd"),
        matrix(down, "n_embd", "n_ff_shexp"),
    )
