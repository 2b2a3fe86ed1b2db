"""Mistral 4: DeepSeek's latent attention, which gets sharper with the position, experts weighed by a softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.convert.architecture import Architecture
from hubquant.convert.architectures import decoder, deepseek, latent, moe
from hubquant.convert.rules.rope import Rope, raw_parameters, tells_rope
from hubquant.convert.rules.rule import (
    SILU,
    Constant,
    Fixed,
    Settings,
    Switch,
    integer,
    is_number,
    number,
    out_of_range,
)
from hubquant.convert.rules.yarn import LatentYarn
from hubquant.convert.tables import Row
from hubquant.gguf_file.metadata import Metadata, f32, u32

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_BETA = "llama_4_scaling_beta"


class _TemperedLatentYarn(LatentYarn):
    """A temperature of attention grows by ``llama_4_scaling_beta`` with each context of pretraining that is passed."""

    rope = Rope(("yarn",), partial=True)

    def check(self, settings: Settings) -> None:
        if not tells_rope(settings):
            return
        super().check(settings)
        beta = raw_parameters(settings).get(_BETA)
        if not (is_number(beta) and 0 < beta < 1e6):
            raise out_of_range(f"rope's {_BETA}", beta, "a number above 0")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        return {
            **super().metadata(config),
            "attention.temperature_scale": f32(parameters[_BETA]),
            "attention.temperature_length": u32(parameters["original_max_position_embeddings"]),
        }

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        parameters: dict[str, Any] = super().settings(metadata)["rope_parameters"]
        rotated, size = (integer(metadata, key) for key in ("rope.dimension_count", "attention.key_length_mla"))
        share = rotated / size if rotated and size else 1.0
        beta = number(metadata, "attention.temperature_scale")
        return {"rope_parameters": parameters | {"partial_rotary_factor": share, _BETA: beta}}


def _block(config: PreTrainedConfig, layer: int) -> tuple[Row, ...]:
    experts = (*moe.routed_stacked(), *moe.shared("mlp.shared_experts"))
    return (
        *latent.between_norms(config),
        *(decoder.gated_mlp() if moe.is_dense(config, layer) else experts),
    )


MISTRAL4 = Architecture(
    name="mistral4",
    classes={"Mistral4ForCausalLM": "mistral4"},
    restored_as="mistral4",
    rules=(
        *decoder.SIZES,
        latent.LatentHeads(),
        _TemperedLatentYarn(),
        latent.LatentEpsilon("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        *moe.WITH_DENSE_LAYERS,
        Constant("expert_gating_func", u32(moe.SOFTMAX)),
        Switch("expert_weights_norm", "norm_topk_prob"),
        Fixed("n_group", 1),
        Fixed("topk_group", 1),
        Fixed("rope_interleave", True),
        Fixed("attention_bias", False),
        SILU,
    ),
    dimensions=deepseek.dimensions,
    outside=decoder.OUTSIDE,
    block=_block,
)
