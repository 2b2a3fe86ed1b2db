"""DeepSeek V2 and V3 (and R1, Kimi K2, Moonlight) and GLM-4.7-Flash, which is a V3 to llama.cpp: latent attention,
dense layers before those with experts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.convert import ahead
from hubquant.convert.ahead import Ahead
from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, latent, moe
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import SILU, Constant, Fixed, Rule
from hubquant.convert.rules.yarn import LatentYarn
from hubquant.convert.tables import Row
from hubquant.gguf_file.metadata import u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_RULES: tuple[Rule, ...] = (
    *decoder.SIZES,
    latent.LatentHeads(),
    LatentYarn(),
    latent.LatentEpsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    *moe.WITH_DENSE_LAYERS,
    Fixed("moe_layer_freq", 1),
    Fixed("attention_bias", False),
    SILU,
)


def dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**moe.with_dense_layers(config), **latent.dimensions(config)}


_EXPERTS: tuple[Row, ...] = (*moe.routed(), *moe.shared("mlp.shared_experts"))


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return (*latent.between_norms(config), *(decoder.gated_mlp() if moe.is_dense(config, layer) else _EXPERTS))


def _block_with_bias(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    return _block(config, layer) if moe.is_dense(config, layer) else (*_block(config, layer), moe.BIAS)


def rows_ahead(config: PreTrainedConfig) -> tuple[Row, ...]:
    """Of a layer that predicts further tokens, which has experts."""
    return (*latent.between_norms(config), *_EXPERTS, moe.BIAS, *ahead.HEAD)


DEEPSEEK2 = Architecture(
    name="deepseek2",
    classes={"DeepseekV2ForCausalLM": "deepseek_v2"},
    restored_as="deepseek_v2",
    rules=(
        *_RULES,
        Constant("expert_gating_func", u32(moe.SOFTMAX)),
        Fixed("scoring_func", "softmax"),
        Fixed("topk_method", "greedy"),
        Fixed("norm_topk_prob", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    without_effect=("head_dim", "n_group", "topk_group"),  # the greedy choice knows no groups
)
DEEPSEEK3 = Architecture(
    name="deepseek2",
    classes={"DeepseekV3ForCausalLM": "deepseek_v3"},
    restored_as="deepseek_v3",
    rules=(*_RULES, *moe.SIGMOID_IN_GROUPS, Fixed("rope_interleave", True)),
    dimensions=dimensions,
    outside=decoder.OUTSIDE,
    block=_block_with_bias,
    ahead=Ahead(rows_ahead),
    marker=("expert_gating_func", moe.SIGMOID),
)
GLM4_MOE_LITE = replace(
    DEEPSEEK3,
    classes={"Glm4MoeLiteForCausalLM": "glm4_moe_lite"},
    rules=tuple(moe.DenseLayersFirst() if rule == moe.DENSE_BY_COUNT else rule for rule in DEEPSEEK3.rules),
)
