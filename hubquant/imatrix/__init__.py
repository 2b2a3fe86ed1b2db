"""Importance matrices: collect, merge, read, write, compare, describe."""

from hubquant.imatrix.collection import CALIBRATION, OUTPUT, Collection, Keeping, Wanted, collected_names
from hubquant.imatrix.collector import collect
from hubquant.imatrix.difference import EntryDifference, MatrixDifference, difference
from hubquant.imatrix.legacy import lost_in_dat
from hubquant.imatrix.matrix import Entry, ImportanceMatrix, selected
from hubquant.imatrix.statistics import LayerStatistics, Statistics, TensorStatistics
from hubquant.imatrix.table import difference_table, facts_table, statistics_table

__all__ = [
    "CALIBRATION",
    "OUTPUT",
    "Collection",
    "Entry",
    "EntryDifference",
    "ImportanceMatrix",
    "Keeping",
    "LayerStatistics",
    "MatrixDifference",
    "Statistics",
    "TensorStatistics",
    "Wanted",
    "collect",
    "collected_names",
    "difference",
    "difference_table",
    "facts_table",
    "lost_in_dat",
    "selected",
    "statistics_table",
]
