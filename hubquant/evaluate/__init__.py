"""How good the written files are: divergence from the source, verification."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubquant.evaluate.baseline import Baseline
    from hubquant.evaluate.baseline_writer import write_baseline
    from hubquant.evaluate.choices import Accuracy, accuracy
    from hubquant.evaluate.comparison import compare, compare_baselines
    from hubquant.evaluate.divergence import Distribution, Divergence, TokenStatistics, summarize, token_statistics
    from hubquant.evaluate.joining import Joined, join_baselines
    from hubquant.evaluate.likelihood import Perplexity, perplexity
    from hubquant.evaluate.plausible import check_plausible
    from hubquant.evaluate.similarity import Similarity
    from hubquant.evaluate.stopping import Precision, Stop
    from hubquant.evaluate.verify import FileCheck, TensorCheck, verify_files

_MODULES = {
    "baseline": ("Baseline",),
    "baseline_writer": ("write_baseline",),
    "choices": ("Accuracy", "accuracy"),
    "comparison": ("compare", "compare_baselines"),
    "divergence": ("Distribution", "Divergence", "TokenStatistics", "summarize", "token_statistics"),
    "joining": ("Joined", "join_baselines"),
    "likelihood": ("Perplexity", "perplexity"),
    "plausible": ("check_plausible",),
    "similarity": ("Similarity",),
    "stopping": ("Precision", "Stop"),
    "verify": ("FileCheck", "TensorCheck", "verify_files"),
}

__all__ = [
    "Accuracy",
    "Baseline",
    "Distribution",
    "Divergence",
    "FileCheck",
    "Joined",
    "Perplexity",
    "Precision",
    "Similarity",
    "Stop",
    "TensorCheck",
    "TokenStatistics",
    "accuracy",
    "check_plausible",
    "compare",
    "compare_baselines",
    "join_baselines",
    "perplexity",
    "summarize",
    "token_statistics",
    "verify_files",
    "write_baseline",
]


def __getattr__(name: str) -> Any:
    """Import torch, h5py and transformers only when they are needed."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"hubquant.evaluate.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
