"""Importance matrices: collect, merge, read, write, describe."""

from hubquant.imatrix.collection import Collection, Keeping, Wanted, collected_names
from hubquant.imatrix.collector import collect
from hubquant.imatrix.matrix import Entry, ImportanceMatrix
from hubquant.imatrix.statistics import LayerStatistics, Statistics, TensorStatistics
from hubquant.imatrix.table import statistics_table

__all__ = [
    "Collection",
    "Entry",
    "ImportanceMatrix",
    "Keeping",
    "LayerStatistics",
    "Statistics",
    "TensorStatistics",
    "Wanted",
    "collect",
    "collected_names",
    "statistics_table",
]
