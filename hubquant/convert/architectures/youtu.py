"""Youtu-LLM, which is a DeepSeek V3 without experts to llama.cpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, latent
from hubquant.convert.operations import Dimensions
from hubquant.convert.rules.rule import SILU, Computed, Constant, Count, Fixed
from hubquant.convert.rules.yarn import LatentYarn
from hubquant.convert.tables import Row
from hubquant.gguf_file.metadata import u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _dimensions(config: PreTrainedConfig) -> Dimensions:
    return {**decoder.dimensions(config), **latent.dimensions(config)}


def _block(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    return (
        *latent.between_norms(config),
        *decoder.gated_mlp(),
    )


YOUTU = Architecture(
    name="deepseek2",
    classes={"YoutuForCausalLM": "youtu"},
    restored_as="youtu",
    rules=(
        *decoder.SIZES,
        latent.LatentHeads(),
        LatentYarn(),
        latent.LatentEpsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        Computed("leading_dense_block_count", "num_hidden_layers", lambda config: config.num_hidden_layers),
        Count("expert_feed_forward_length", "intermediate_size"),  # llama.cpp loads no file without
        Constant("expert_shared_count", u32(0)),
        Fixed("rope_interleave", True),
        Fixed("attention_bias", False),
        SILU,
    ),
    dimensions=_dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
    without_effect=("embedding_initializer_range",),
    marker=("expert_shared_count", 0),
)
