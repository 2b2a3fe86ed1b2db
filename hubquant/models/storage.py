"""How the weights of a checkpoint are stored: as floats, as FP8 with scales, or in a way that cannot be undone here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hubquant.errors import CheckpointError, NotSupportedYet

READ_AS_THEY_ARE = ("mxfp4",)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FLOAT_FORMATS = ("float-quantized", "naive-quantized")
_STRATEGIES = ("tensor", "channel", "block")


@dataclass(frozen=True)
class Float8:
    """A matrix has its scales beside it, under its own name and ``suffix``.

    Each scale is for a ``block`` of [rows, columns]; None where the scales' shape alone tells the blocks.
    """

    suffix: str
    block: tuple[int, int] | None = None


def quantization_of(config: Mapping[str, Any]) -> Any:
    """What config.json says of quantized weights; None for plain floats."""
    text = config.get("text_config")
    sources = (config, text) if isinstance(text, Mapping) else (config,)
    names = ("quantization_config", "compression_config")
    return next((source[name] for source in sources for name in names if source.get(name)), None)


def method_of(config: Mapping[str, Any]) -> str | None:
    """The method of quantization that config.json names; None for plain floats."""
    quantization = quantization_of(config)
    if quantization is None:
        return None
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    return str(method or "unknown method")[:40]


def read_storage(config: Mapping[str, Any], card: Mapping[str, Any] | None = None) -> Float8 | None:
    """None for floats and for what architectures read as it is.

    Raises ``NotSupportedYet`` for other quantized weights, and names what they were made from.
    """
    quantization, method = quantization_of(config), method_of(config)
    if method is None or method in READ_AS_THEY_ARE:
        return None
    if method == "fp8":
        return Float8("_scale_inv", _block(quantization.get("weight_block_size")))
    if method == "compressed-tensors" and (found := _compressed_float8(quantization)):
        return found
    raise refusal(config, card)


def refusal(config: Mapping[str, Any], card: Mapping[str, Any] | None = None) -> NotSupportedYet:
    """For quantized weights that cannot be read."""
    quantization, method = quantization_of(config), method_of(config)
    form = quantization.get("format") if method == "compressed-tensors" else None
    base = base_model(config, card or {})
    return NotSupportedYet(
        f"weights that are already quantized ({method}{f', {str(form)[:40]}' if form else ''})",
        why="what they were rounded from is lost, and rounding them again would lose more",
        hint=f"convert the model that they were made from: {base}"
        if base
        else "convert the model that they were made from: its card calls it base_model",
    )


def base_model(config: Mapping[str, Any], card: Mapping[str, Any]) -> str | None:
    """The Hub id of the model that a quantized one was made from, by its card or its config.json."""
    named = card.get("base_model")
    candidates = [*(named if isinstance(named, list) else [named]), config.get("_name_or_path")]
    return next((name for name in candidates if isinstance(name, str) and _HUB_ID.fullmatch(name)), None)


def _compressed_float8(quantization: Mapping[str, Any]) -> Float8 | None:
    groups = quantization.get("config_groups")
    if quantization.get("format", "float-quantized") not in _FLOAT_FORMATS or not isinstance(groups, Mapping):
        return None
    weights = [group.get("weights") if isinstance(group, Mapping) else None for group in groups.values()]
    known = [each for each in weights if isinstance(each, Mapping) and _is_float8(each)]
    if not weights or len(known) < len(weights):
        return None
    return Float8("_scale", _block(known[0].get("block_structure")))


def _is_float8(weights: Mapping[str, Any]) -> bool:
    stored = weights.get("type") == "float" and weights.get("num_bits") == 8 and weights.get("symmetric", True)
    return bool(stored) and weights.get("strategy") in _STRATEGIES


def _block(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 2 and all(type(n) is int and 0 < n < 1 << 24 for n in value)):
        raise CheckpointError(
            f"the block size of quantized weights in config.json is {str(value)[:40]}", why="it must be [rows, columns]"
        )
    return value[0], value[1]
