"""ERNIE 4.5, whose rope turns neighbours in a head, and its mixture of experts behind dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, moe
from hubquant.convert.operations import Dimensions, reshape
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Constant, Count, Fixed, Rule
from hubquant.convert.tables import Row, Tensors, norm
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_RULES: tuple[Rule, ...] = (*decoder.RULES, Rope(), Fixed("use_bias", False))
_ATTENTION: tuple[Row, ...] = (
    norm("input_layernorm"),
    *decoder.attention(),
    norm("post_attention_layernorm"),
)
_BIAS = Tensors(
    ("mlp.moe_statics.e_score_correction_bias",),
    {"exp_probs_b.bias": ("n_expert",)},
    (reshape(("one", "n_expert"), ("n_expert",)),),
)


@dataclass(frozen=True)
class _ExpertsToTheLast(Rule):
    """Every layer behind the dense ones has experts."""

    reads = ("moe_layer_end_index",)

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        if config.moe_layer_end_index < config.num_hidden_layers - 1:
            raise NotSupportedYet(
                f"moe_layer_end_index {config.moe_layer_end_index}", why="llama.cpp has no dense layers behind experts"
            )
        return {}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.moe_intermediate_size
    return moe.dimensions(config, config.moe_num_experts, width, width * config.moe_num_shared_experts)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    shared = moe.shared("mlp.shared_experts") if config.moe_num_shared_experts else ()
    dense = layer < config.moe_layer_start_index
    return (*_ATTENTION, *(decoder.gated_mlp() if dense else (*moe.routed(), *shared, _BIAS)))


ERNIE4_5 = Architecture(
    name="ernie4_5",
    classes={"Ernie4_5ForCausalLM": "ernie4_5", "Ernie4_5_ForCausalLM": "ernie4_5"},
    restored_as="ernie4_5",
    rules=_RULES,
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*_ATTENTION, *decoder.gated_mlp()),
)
ERNIE4_5_MOE = Architecture(
    name="ernie4_5-moe",
    classes={"Ernie4_5_MoeForCausalLM": "ernie4_5_moe"},
    restored_as="ernie4_5_moe",
    rules=(
        *_RULES,
        *moe.counts("moe_num_experts", "moe_k"),
        Constant("interleave_moe_layer_step", u32(1)),
        Count("leading_dense_block_count", "moe_layer_start_index", most=10_000, least=0),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        Count("expert_shared_count", "moe_num_shared_experts", most=moe.MOST_EXPERTS, least=0),
        moe.SharedWidth(_dimensions),
        _ExpertsToTheLast(),
        Fixed("moe_layer_interval", 1),
        Fixed("moe_norm_min", 1e-12),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    renames=((r"\.mlp\.gate\.moe_statics\.", ".mlp.moe_statics."),),  # as transformers has it in memory
    ignored=(r"^model\.mtp_",),
)
