"""The public Python API behind ``import hubquant``."""

from hubquant.api.compare import compare
from hubquant.api.datasets import build_dataset
from hubquant.api.files import convert, inspect, publish, quantize
from hubquant.api.measurements import collect_imatrix, evaluate, join_baselines
from hubquant.api.models import detect, load, search, survey
from hubquant.api.pictures import observe
from hubquant.api.recipes import plan, run
from hubquant.api.tuning import refine, tune

__all__ = [
    "build_dataset",
    "collect_imatrix",
    "compare",
    "convert",
    "detect",
    "evaluate",
    "inspect",
    "join_baselines",
    "load",
    "observe",
    "plan",
    "publish",
    "quantize",
    "refine",
    "run",
    "search",
    "survey",
    "tune",
]
