"""Which tensor gets which type."""

from hubquant.mix.assignment import assign, requires_imatrix, without_importance
from hubquant.mix.budget import is_budget
from hubquant.mix.checks import check_recipe, check_settings
from hubquant.mix.denoisers import DENOISERS
from hubquant.mix.file_types import COPY, FTYPES, FileType, file_type, tensor_type
from hubquant.mix.names import is_name

__all__ = [
    "COPY",
    "DENOISERS",
    "FTYPES",
    "FileType",
    "assign",
    "check_recipe",
    "check_settings",
    "file_type",
    "is_budget",
    "is_name",
    "requires_imatrix",
    "tensor_type",
    "without_importance",
]
