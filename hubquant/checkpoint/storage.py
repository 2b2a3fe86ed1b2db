"""What config.json says of quantized weights, and the refusal of those that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hubquant.errors import CheckpointError, NotSupportedYet

QUANTIZATION = ("quantization_config", "compression_config", "quantization")
TEXT_PARTS = ("text_config", "llm_config", "language_config")  # of a multimodal config.json
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def quantization_of(config: Mapping[str, Any]) -> Any:
    """What config.json says of quantized weights; None for plain floats."""
    sources = (config, *(config[part] for part in TEXT_PARTS if isinstance(config.get(part), Mapping)))
    return next((source[name] for source in sources for name in QUANTIZATION if source.get(name)), None)


def method_of(config: Mapping[str, Any]) -> str | None:
    """The method of quantization that config.json names; None for plain floats."""
    quantization = quantization_of(config)
    if quantization is None:
        return None
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    return str(method or ("MLX" if "quantization" in config else "unknown method"))[:40]


def block_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """[rows, columns] that one scale of FP8 is for; None where the scales' shape alone tells."""
    quantization = quantization_of(config)
    if not isinstance(quantization, Mapping):
        return None
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and weights.get("block_structure") is not None:
            return _block(weights["block_structure"])
    return _block(quantization.get("weight_block_size"))


def refusal(config: Mapping[str, Any], base: str | None = None, method: str | None = None) -> NotSupportedYet:
    """For quantized weights that cannot be read; ``method`` is theirs where config.json names none.

    ``base`` is the Hub id of the model that they were made from.
    """
    quantization, method = quantization_of(config), method_of(config) or method
    form = quantization.get("format") if method == "compressed-tensors" and isinstance(quantization, Mapping) else None
    return NotSupportedYet(
        f"weights that are already quantized ({method}{f', {str(form)[:40]}' if form else ''})",
        why="what they were rounded from is lost, and rounding them again would lose more",
        hint=f"convert the model that they were made from: {base}"
        if base
        else "convert the 16-bit model that they were made from, which its card calls base_model; "
        "an adapter that was trained on them is to be merged into that one",
    )


def base_model(config: Mapping[str, Any], card: Mapping[str, Any]) -> str | None:
    """The Hub id of the model that a quantized one was made from, by its card or its config.json."""
    named = card.get("base_model")
    candidates = [*(named if isinstance(named, list) else [named]), config.get("_name_or_path")]
    return next((name for name in candidates if isinstance(name, str) and _HUB_ID.fullmatch(name)), None)


def _block(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n < 1 << 24 for n in value)):
        raise CheckpointError(
            f"the block size of quantized weights in config.json is {str(value)[:40]}", why="it must be [rows, columns]"
        )
    return value[0], value[1]
