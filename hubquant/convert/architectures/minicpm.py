"""MiniCPM 1 and 2, whose code is not part of transformers: Granite with its factors written in other ways."""

from __future__ import annotations

from typing import Any

from hubquant.convert.architecture import Architecture, every_layer
from hubquant.convert.architectures import decoder, granite, llama
from hubquant.convert.rules.rope import Rope
from hubquant.convert.rules.rule import Fixed, Number, Settings, check_count, is_number, out_of_range

_SCALES = ("scale_emb", "scale_depth", "dim_model_base")


def _as_granite(settings: Settings) -> dict[str, Any]:
    """``scale_depth`` / √layers weighs residuals, width / ``dim_model_base`` divides logits (MiniCPM's own code)."""
    for name in _SCALES:
        if not (is_number(settings.get(name)) and settings[name] > 0):
            raise out_of_range(name, settings.get(name), "a number above 0")
    for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"):
        check_count({name: settings.get(name, 0)}, name, 1 << 24)
    width = settings["hidden_size"]
    return {
        **settings,
        "embedding_multiplier": settings["scale_emb"],
        "residual_multiplier": settings["scale_depth"] / settings["num_hidden_layers"] ** 0.5,
        "logits_scaling": width / settings["dim_model_base"],
        "attention_multiplier": (width // settings["num_attention_heads"]) ** -0.5,
    }


MINICPM = Architecture(
    name="minicpm",
    classes={"MiniCPMForCausalLM": "granite"},
    restored_as="granite",
    rules=(
        *decoder.RULES,
        Rope(("default",)),
        Number("embedding_scale", "embedding_multiplier"),
        Number("residual_scale", "residual_multiplier"),
        Number("logit_scale", "logits_scaling"),
        granite.PlainAttentionScale(),
        Fixed("attention_bias", False),
        Fixed("mlp_bias", False),
    ),
    dimensions=decoder.dimensions,
    outside=decoder.OUTSIDE,
    block=every_layer(*llama.ATTENTION, *decoder.gated_mlp()),
    translate=_as_granite,
    translated=_SCALES,
    own_code=True,
)
