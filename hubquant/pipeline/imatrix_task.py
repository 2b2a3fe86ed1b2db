"""What all importance matrices are, however they are made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.engine.task import Task
from hubquant.imatrix import load_imatrix
from hubquant.pipeline.contents import IMATRIX

if TYPE_CHECKING:
    from hubquant.imatrix import ImportanceMatrix


class ImatrixTask(Task["ImportanceMatrix"]):
    """Makes a file of an importance matrix in its folder."""

    kind = "imatrix"

    @property
    def label(self) -> str:
        return "importance matrix"

    def read(self, folder: Path) -> ImportanceMatrix:
        return load_imatrix(folder / IMATRIX)
