"""Importance matrices: collect, merge, read, write, describe."""

from hubquant.imatrix.collector import collect, collected_names
from hubquant.imatrix.matrix import Entry, ImportanceMatrix
from hubquant.imatrix.statistics import LayerStatistics, Statistics, TensorStatistics
from hubquant.imatrix.table import statistics_table

__all__ = [
    "Entry",
    "ImportanceMatrix",
    "LayerStatistics",
    "Statistics",
    "TensorStatistics",
    "collect",
    "collected_names",
    "statistics_table",
]
