"""Importance matrices: read, write, merge, compare, describe."""

from hubquant.imatrix.difference import EntryDifference, MatrixDifference, difference
from hubquant.imatrix.files import load_imatrix, save
from hubquant.imatrix.legacy import lost_in_dat
from hubquant.imatrix.matrix import CALIBRATION, Entry, ImportanceMatrix, selected
from hubquant.imatrix.merging import merge
from hubquant.imatrix.statistics import LayerStatistics, Statistics, TensorStatistics, statistics
from hubquant.imatrix.table import difference_table, facts_table, statistics_table

__all__ = [
    "CALIBRATION",
    "Entry",
    "EntryDifference",
    "ImportanceMatrix",
    "LayerStatistics",
    "MatrixDifference",
    "Statistics",
    "TensorStatistics",
    "difference",
    "difference_table",
    "facts_table",
    "load_imatrix",
    "lost_in_dat",
    "merge",
    "save",
    "selected",
    "statistics",
    "statistics_table",
]
