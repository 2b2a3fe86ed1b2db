"""Rotary position embeddings: transformers' ``rope_parameters``, GGUF's ``rope.*`` keys and ``rope_freqs.weight``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules import Settings, head_size, is_number, out_of_range
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32, string, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

FREQS = "rope_freqs.weight"
BETA_FAST, BETA_SLOW = 32.0, 1.0  # yarn's defaults in transformers and in llama.cpp

_REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_POSITIVE = (
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "attention_factor",
)


@dataclass(frozen=True)
class Rope:
    """``types`` are the rope types that llama.cpp computes for the architecture."""

    types: tuple[str, ...] = ("default", "linear", "yarn")

    def check(self, settings: Settings) -> None:
        parameters = _raw_parameters(settings)
        kind = rope_type(parameters)
        if kind not in self.types:
            raise NotSupportedYet(f"rope type {str(kind)[:40]!r}", why=f"known here: {', '.join(self.types)}")
        for name in _REQUIRED[kind]:
            if parameters.get(name) is None:
                raise CheckpointError(f"config.json has rope type {kind!r} without {name!r}")
        for name in _POSITIVE:
            value = parameters.get(name)
            if value is not None and not (is_number(value) and value > 0):
                raise out_of_range(f"rope's {name}", value, "a number above 0")
        if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
            raise NotSupportedYet("partial rotary embeddings", why="llama.cpp rotates whole heads here")
        if parameters.get("truncate") is False:
            raise NotSupportedYet("yarn without truncation", why="llama.cpp truncates the correction range")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        kind = rope_type(parameters)
        result = {"rope.freq_base": f32(parameters["rope_theta"])}
        if kind in ("linear", "yarn"):
            result["rope.scaling.type"] = string(kind)
            result["rope.scaling.factor"] = f32(parameters["factor"])
        if kind == "yarn":
            result |= _yarn(parameters)
        return result

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        def value(key: str, default: Any) -> Any:
            return metadata[key].value if key in metadata else default

        parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": value("rope.freq_base", 10000.0)}
        kind = value("rope.scaling.type", "none")
        if kind in ("linear", "yarn"):
            parameters |= {"rope_type": kind, "factor": value("rope.scaling.factor", 1.0)}
        elif kind != "none":
            raise NotSupportedYet(f"rope scaling {str(kind)[:40]!r}")
        if kind == "yarn":
            default = _yarn_attention(parameters["factor"])
            parameters |= {
                "original_max_position_embeddings": value("rope.scaling.original_context_length", None)
                or value("context_length", None),
                "beta_fast": value("rope.scaling.yarn_beta_fast", BETA_FAST),
                "beta_slow": value("rope.scaling.yarn_beta_slow", BETA_SLOW),
                "attention_factor": value("rope.scaling.attn_factor", 1.0) * default,
            }
        return {"rope_parameters": parameters}


def rope_type(parameters: Mapping[str, Any]) -> Any:
    return parameters.get("rope_type") or parameters.get("type") or "default"


def rope_freqs(config: PreTrainedConfig) -> dict[str, tuple[float, ...]]:
    """``rope_freqs.weight`` of Llama 3.1: what each of the head_dim / 2 frequencies is divided by.

    Wavelengths up to context / high_freq_factor stay, those from context / low_freq_factor on are stretched by
    ``factor``, and between them the inverse of the divisor goes linearly with the frequency (``llama3`` rope of
    transformers).
    """
    parameters = config.rope_parameters
    if rope_type(parameters) != "llama3":
        return {}
    size, theta, factor = head_size(config), parameters["rope_theta"], parameters["factor"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    context = parameters["original_max_position_embeddings"]

    def divisor(pair: int) -> float:
        turns = context / (2 * math.pi * theta ** (2 * pair / size))
        if turns > high:
            return 1.0
        if turns < low:
            return float(factor)
        smooth = (turns - low) / (high - low)
        return float(1 / ((1 - smooth) / factor + smooth))

    return {FREQS: tuple(divisor(pair) for pair in range(size // 2))}


def apply_freqs(model: torch.nn.Module, divisors: torch.Tensor) -> None:
    """Divide a model's rope frequencies as ``rope_freqs.weight`` [head_dim / 2] says."""
    for module in model.modules():
        for name in ("inv_freq", "original_inv_freq"):
            buffer = getattr(module, name, None)
            if buffer is not None:
                buffer.div_(divisors.to(buffer.device))


def _raw_parameters(settings: Settings) -> dict[str, Any]:
    """``rope_parameters`` of transformers 5, or ``rope_scaling`` and ``rope_theta`` of its predecessors."""
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise out_of_range("rope_parameters", parameters, "a table")
    older = {key: settings[key] for key in ("rope_theta", "partial_rotary_factor") if key in settings}
    return {**older, **parameters}


def _yarn(parameters: Mapping[str, Any]) -> Metadata:
    result = {"rope.scaling.original_context_length": u32(parameters["original_max_position_embeddings"])}
    for key, default in (("beta_fast", BETA_FAST), ("beta_slow", BETA_SLOW)):
        if (value := parameters.get(key) or default) != default:
            result[f"rope.scaling.yarn_{key}"] = f32(value)
    factor, default = parameters["factor"], _yarn_attention(parameters["factor"])
    attention, mscale, mscale_all = (parameters.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None and mscale and mscale_all:
        attention = _yarn_attention(factor, mscale) / _yarn_attention(factor, mscale_all)
    if attention is not None and attention != default:
        result["rope.scaling.attn_factor"] = f32(attention / default)  # llama.cpp multiplies its default by it
    return result


def _yarn_attention(factor: float, mscale: float = 1.0) -> float:
    """Scale of the rotated queries and keys (https://arxiv.org/abs/2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
