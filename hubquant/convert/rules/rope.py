"""Rotary position embeddings: transformers' ``rope_parameters``, GGUF's ``rope.*`` keys and ``rope_freqs.weight``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rule import Rule, Settings, head_size, integer, is_number, number, out_of_range
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, f32, string, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

FREQS = "rope_freqs.weight"
DYNAMIC = "dynamic"
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}  # yarn's defaults in transformers and in llama.cpp

_REQUIRED = {
    "default": (),
    DYNAMIC: ("factor",),
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_LARGEST = {  # of numbers above 0
    "rope_theta": 1e30,
    "factor": 1e6,
    "low_freq_factor": 1e6,
    "high_freq_factor": 1e6,
    "original_max_position_embeddings": float((1 << 31) - 1),
    "attention_factor": 1e6,
    "mscale": 1e6,
    "mscale_all_dim": 1e6,
}


@dataclass(frozen=True)
class Rope(Rule):
    """``types`` are the rope types that llama.cpp computes for the architecture, of whole heads unless ``partial``.

    ``DYNAMIC`` is the default up to the longest text of training, and stays so in llama.cpp.
    """

    types: tuple[str, ...] = ("default", DYNAMIC, "linear", "yarn")
    partial: bool = False
    reads = ("rope_parameters",)

    def check(self, settings: Settings) -> None:
        if not tells_rope(settings):
            return
        parameters = raw_parameters(settings)
        kind = rope_type(parameters)
        if kind not in self.types:
            raise NotSupportedYet(f"rope type {str(kind)[:40]!r}", why=f"known here: {', '.join(self.types)}")
        for name in _REQUIRED[kind]:
            if parameters.get(name) is None:
                raise CheckpointError(f"config.json has rope type {kind!r} without {name!r}")
        for name, most in _LARGEST.items():
            value = parameters.get(name)
            if value is not None and not (is_number(value) and 0 < value <= most):
                raise out_of_range(f"rope's {name}", value, f"a number above 0 and up to {most:g}")
        if kind == "llama3" and parameters["low_freq_factor"] > parameters["high_freq_factor"]:
            raise out_of_range("rope's low_freq_factor", parameters["low_freq_factor"], "no more than high_freq_factor")
        share = parameters.get("partial_rotary_factor")
        if share is not None and not (is_number(share) and 0 < share <= 1):
            raise out_of_range("partial_rotary_factor", share, "above 0 and up to 1")
        if share not in (None, 1) and not self.partial:
            raise NotSupportedYet("partial rotary embeddings", why="llama.cpp rotates whole heads here")
        for name, value in BETAS.items():
            if kind == "yarn" and (parameters.get(name) or value) != value:
                raise NotSupportedYet(f"yarn with {name} {parameters[name]}", why=f"llama.cpp uses {value:g} here")
        if kind == "yarn" and parameters.get("truncate") is False:
            raise NotSupportedYet("yarn without truncation", why="llama.cpp truncates the correction range")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        parameters = config.rope_parameters
        kind = rope_type(parameters)
        if "rope_theta" not in parameters:
            raise NotSupportedYet("rope of its own for each kind of layer", why="llama.cpp has one for all layers here")
        if parameters["rope_theta"] is None:
            raise out_of_range("rope_theta", None, "a number above 0")
        rotated = int(head_size(config) * (parameters.get("partial_rotary_factor") or 1))
        if rotated % 2:
            raise NotSupportedYet(f"{rotated} rotated numbers of each head", why="llama.cpp rotates pairs")
        result = {
            "rope.dimension_count": u32(rotated),
            "rope.freq_base": f32(parameters["rope_theta"]),
        }
        if kind in ("linear", "yarn"):
            result["rope.scaling.type"] = string(kind)
            result["rope.scaling.factor"] = f32(parameters["factor"])
        if kind == "yarn":
            result |= _yarn(parameters)
        return result

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        if rope_type(config.rope_parameters) == DYNAMIC:
            yield (
                f"texts of more than {config.max_position_embeddings:,} tokens come out otherwise than in "
                "transformers, which stretches positions there (dynamic rope)"
            )

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": number(metadata, "rope.freq_base") or 10000.0,
        }
        if self.partial:
            parameters["partial_rotary_factor"] = _rotated_share(metadata)
        kind = metadata["rope.scaling.type"].value if "rope.scaling.type" in metadata else "none"
        if kind not in ("none", "linear", "yarn"):
            raise NotSupportedYet(f"rope scaling {str(kind)[:40]!r}")
        if kind != "none":
            factor = number(metadata, "rope.scaling.factor") or 1.0
            parameters |= {"rope_type": kind, "factor": factor}
        if kind == "yarn":
            context = integer(metadata, "rope.scaling.original_context_length") or integer(metadata, "context_length")
            attention = (number(metadata, "rope.scaling.attn_factor") or 1.0) * _yarn_attention(factor)
            parameters |= {"original_max_position_embeddings": context, "attention_factor": attention}
        return {"rope_parameters": parameters}


def _rotated_share(metadata: Metadata) -> float:
    """transformers multiplies it by the head's size and rounds down."""
    count, size = integer(metadata, "rope.dimension_count"), integer(metadata, "attention.key_length")
    if not count or not size or count >= size:
        return 1.0
    return count / size if int(size * (count / size)) == count else math.nextafter(count / size, 1)


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
        if turns >= high:
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


def tells_rope(settings: Settings) -> bool:
    """Whether there is a table: without one, not even the type is known before the config class adds its defaults."""
    return bool(settings.get("rope_parameters") or settings.get("rope_scaling"))


def raw_parameters(settings: Settings) -> dict[str, Any]:
    """``rope_parameters`` of transformers 5, or ``rope_scaling`` and ``rope_theta`` of its predecessors.

    Raises ``CheckpointError`` for what is no table.
    """
    parameters = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise out_of_range("rope_parameters", parameters, "a table")
    older = {key: settings[key] for key in ("rope_theta", "partial_rotary_factor") if key in settings}
    return {**older, **parameters}


def _yarn(parameters: Mapping[str, Any]) -> Metadata:
    result = {"rope.scaling.original_context_length": u32(parameters["original_max_position_embeddings"])}
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
