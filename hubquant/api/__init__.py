"""The public Python API behind ``import hubquant``."""

from hubquant.api.files import convert, inspect, publish, quantize
from hubquant.api.measurements import collect_imatrix, evaluate
from hubquant.api.models import search, survey
from hubquant.api.recipes import plan, run

__all__ = [
    "collect_imatrix",
    "convert",
    "evaluate",
    "inspect",
    "plan",
    "publish",
    "quantize",
    "run",
    "search",
    "survey",
]
