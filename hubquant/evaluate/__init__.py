"""How good the written files are: divergence from the source, verification, reports."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubquant.evaluate.baseline import Baseline
    from hubquant.evaluate.baseline_writer import write_baseline
    from hubquant.evaluate.comparison import compare
    from hubquant.evaluate.divergence import Distribution, Divergence, TokenStatistics, summarize, token_statistics
    from hubquant.evaluate.likelihood import Perplexity, perplexity

_MODULES = {
    "baseline": ("Baseline",),
    "baseline_writer": ("write_baseline",),
    "comparison": ("compare",),
    "divergence": ("Distribution", "Divergence", "TokenStatistics", "summarize", "token_statistics"),
    "likelihood": ("Perplexity", "perplexity"),
}

__all__ = [
    "Baseline",
    "Distribution",
    "Divergence",
    "Perplexity",
    "TokenStatistics",
    "compare",
    "perplexity",
    "summarize",
    "token_statistics",
    "write_baseline",
]


def __getattr__(name: str) -> Any:
    """Import torch, h5py and matplotlib only when they are needed."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"hubquant.evaluate.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
