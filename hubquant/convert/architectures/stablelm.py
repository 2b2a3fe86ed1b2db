"""StableLM: Llama with true layer norms, rope on a part of each head, perhaps both halves of a layer in parallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import SILU, Epsilon, Fixed, Heads, Settings, Switch
from hubquant.convert.tables import Embeddings, Row, norm

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _block(config: PreTrainedConfig, _layer: int) -> tuple[Row, ...]:
    second: tuple[Row, ...] = () if config.use_parallel_residual else (norm("post_attention_layernorm", bias=True),)
    return (
        norm("input_layernorm", bias=True),
        *decoder.attention(bias="use_qkv_bias"),
        *second,
        *decoder.gated_mlp(),
    )


_EPOCH_NAMES = {"rope_pct": "partial_rotary_factor", "norm_eps": "layer_norm_eps"}  # of StableLMEpochForCausalLM


def _translate_epoch(settings: Settings) -> Settings:
    return {_EPOCH_NAMES.get(name, name): value for name, value in settings.items()}


STABLELM = Architecture(
    name="stablelm",
    classes={"StableLmForCausalLM": "stablelm", "StableLMEpochForCausalLM": "stablelm"},
    restored_as="stablelm",
    rules=(
        *decoder.SIZES,
        Heads(whole=True),
        Rope(("default",), partial=True),
        Epsilon("attention.layer_norm_epsilon", "layer_norm_eps"),
        Switch("use_parallel_residual", "use_parallel_residual"),
        Fixed("qk_layernorm", False),
        SILU,
    ),
    dimensions=decoder.dimensions,
    outside=(Embeddings(both=True), norm("model.norm", bias=True)),
    block=_block,
    translate=_translate_epoch,
    translated=tuple(_EPOCH_NAMES),
)
