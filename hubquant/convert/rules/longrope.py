"""LongRoPE (https://arxiv.org/abs/2402.13753): every frequency divided by a factor of its own, by other ones when the
context is longer than the one of pretraining.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.convert.rules.rope import Rope, raw_parameters, rope_type
from hubquant.convert.rules.rule import Rule, Settings, check_count, integer, is_number, number, out_of_range
from hubquant.gguf_file.metadata import Metadata, f32, u32

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
_NAMES = ("longrope", "su")
_PRETRAINED = "original_max_position_embeddings"


@dataclass(frozen=True)
class LongRope(Rule):
    """Rope as it is without scaling, or LongRoPE, whose factors are tensors of the file."""

    plain: Rope
    reads = (*Rope.reads, _PRETRAINED)

    def check(self, settings: Settings) -> None:
        check_count(settings, _PRETRAINED, (1 << 31) - 1)
        parameters = raw_parameters(settings)
        if rope_type(parameters) not in _NAMES:
            self.plain.check(settings)
            return
        for name in ("long_factor", "short_factor"):
            factors = parameters.get(name)
            if not isinstance(factors, list) or not all(is_number(x) and 0 < x < 1e6 for x in factors):
                raise out_of_range(f"rope's {name}", factors, "a list of numbers above 0")

    def metadata(self, config: PreTrainedConfig) -> Metadata:
        result = {
            **self.plain.metadata(config),
            "rope.scaling.original_context_length": u32(_pretrained(config)),
        }
        if factors := rope_factors(config):
            pairs = (integer(result, "rope.dimension_count") or 0) // 2
            for name, values in factors.items():
                if len(values) != pairs:
                    raise out_of_range(name.removesuffix(".weight"), len(values), f"{pairs} numbers")
            result["rope.scaling.attn_factor"] = f32(_attention_factor(config))
        return result

    def notes(self, config: PreTrainedConfig) -> Iterator[str]:
        pretrained = _pretrained(config)
        if rope_factors(config) and pretrained < config.max_position_embeddings:
            yield (
                f"texts of up to {pretrained:,} tokens come out as in transformers in a context (-c) of that size: in "
                "a larger one llama.cpp stretches positions for all texts, transformers for longer ones (longrope)"
            )

    def settings(self, metadata: Metadata) -> dict[str, Any]:
        context = integer(metadata, "rope.scaling.original_context_length") or integer(metadata, "context_length")
        parameters = self.plain.settings(metadata)["rope_parameters"]
        factor = number(metadata, "rope.scaling.attn_factor")
        return {_PRETRAINED: context, "rope_parameters": parameters | ({"attention_factor": factor} if factor else {})}


def rope_factors(config: PreTrainedConfig) -> dict[str, tuple[float, ...]]:
    """The tensors of a model with LongRoPE, of head_dim / 2 numbers each."""
    parameters = config.rope_parameters
    if rope_type(parameters) not in _NAMES:
        return {}
    return {LONG: tuple(parameters["long_factor"]), SHORT: tuple(parameters["short_factor"])}


def told_by_factors(tensors: Mapping[str, torch.Tensor], settings: Settings) -> dict[str, Any]:
    """The settings of LongRoPE where its two tensors [head_dim / 2] are there."""
    if LONG not in tensors or SHORT not in tensors:
        return {}
    factors = {"long_factor": tensors[LONG].tolist(), "short_factor": tensors[SHORT].tolist()}
    return {"rope_parameters": {**settings["rope_parameters"], "rope_type": "longrope", **factors}}


def _pretrained(config: PreTrainedConfig) -> int:
    """The context of pretraining, which a config has beside the factors or among them."""
    given = getattr(config, _PRETRAINED, None) or config.rope_parameters.get(_PRETRAINED)
    return int(given or config.max_position_embeddings)


def _attention_factor(config: PreTrainedConfig) -> float:
    """What transformers multiplies rotated queries and keys by."""
    given = config.rope_parameters.get("attention_factor")
    pretrained = _pretrained(config)
    stretch = config.max_position_embeddings / pretrained
    if given is not None:
        return float(given)
    return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(pretrained))
