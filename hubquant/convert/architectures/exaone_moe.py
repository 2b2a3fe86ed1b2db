"""K-EXAONE: windows and rope in three of four layers, DeepSeek V3's experts behind dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, moe, qwen3
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rope import Rope, rope_freqs
from hubquant.convert.rules.rule import Count, Number, Rule
from hubquant.convert.rules.windows import Windows
from hubquant.convert.tables import Row, Tensors
from hubquant.gguf_file.metadata import Metadata, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_BIAS = Tensors(("mlp.e_score_correction_bias",), {"exp_probs_b.bias": ("n_expert",)})


class _SharedWidth(Rule):
    """The width of all the experts that every token passes."""

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        return {"expert_shared_feed_forward_length": u32(_dimensions(config)["n_ff_shexp"])}


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    width = config.moe_intermediate_size
    return moe.dimensions(config, config.num_experts, width, width * config.num_shared_experts)


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    experts = (*moe.routed(), *moe.shared("mlp.shared_experts"), _BIAS)
    return (*qwen3.ATTENTION, *(decoder.gated_mlp() if moe.is_dense(config, layer) else experts))


EXAONE_MOE = Architecture(
    name="exaone-moe",
    classes={"ExaoneMoeForCausalLM": "exaone_moe"},
    restored_as="exaone_moe",
    rules=(
        *decoder.RULES,
        Rope(("default", "llama3")),
        Windows(period=4),
        moe.DenseLayersFirst(),
        *moe.counts("num_experts"),
        Count("expert_shared_count", "num_shared_experts", most=moe.MOST_EXPERTS),
        Count("expert_feed_forward_length", "moe_intermediate_size"),
        _SharedWidth(),
        Number("expert_weights_scale", "routed_scaling_factor"),
        *(moe.Groups("num_experts") if rule == moe.Groups() else rule for rule in moe.SIGMOID_IN_GROUPS),
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE_WITH_OUTPUT,
    block=_block,
    constants=rope_freqs,
    ignored=(r"\.rotary_emb\.inv_freq$", r"^mtp\."),
    renames=((r"\.mlp\.gate\.e_score_correction_bias", ".mlp.e_score_correction_bias"),),  # as it is in memory
    without_effect=("first_k_dense_replace",),  # mlp_layer_types are made of it
)
