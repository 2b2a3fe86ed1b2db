"""Quantization kernels: every GGUF tensor type, its layout, and the search for its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.quants.formats import FORK_TYPES, TYPES, TypeFormat

if TYPE_CHECKING:
    from hubquant.quants.api import dequantize, implemented, needs_importance, quantize
    from hubquant.quants.feedback.entry import quantize_with_feedback, weighted_error

__all__ = [
    "FORK_TYPES",
    "TYPES",
    "TypeFormat",
    "dequantize",
    "implemented",
    "needs_importance",
    "quantize",
    "quantize_with_feedback",
    "weighted_error",
]


def __getattr__(name: str) -> Any:
    """Import torch only when a tensor is really (de)quantized."""
    if name in {"dequantize", "implemented", "needs_importance", "quantize"}:
        from hubquant.quants import api

        return getattr(api, name)
    if name in {"quantize_with_feedback", "weighted_error"}:
        from hubquant.quants.feedback import entry

        return getattr(entry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
