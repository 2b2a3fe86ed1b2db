"""Projectors that llama.cpp has code for, or would seem to, but computes otherwise, whatever a file says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ROTATED = "llama.cpp adds learned places to what it hears, where this model turns queries and keys by theirs"
_ANOTHER = "what llama.cpp calls phi4 is the encoder of another model, Phi4ForCausalLMV"
OTHERWISE: Mapping[str, str] = MappingProxyType(
    {
        "VoxtralForConditionalGeneration": (
            "llama.cpp averages pairs of an encoder's states before it joins four of them, which this model does not, "
            "and makes half as many embeddings"
        ),
        "GlmAsrForConditionalGeneration": _ROTATED,
        "GlmasrModel": _ROTATED,
        "Phi4MultimodalForCausalLM": _ANOTHER,
        "Phi4MMForCausalLM": _ANOTHER,
    }
)
"""By the class of the whole model, why none is made."""
