"""What all importance matrices are, however they are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.engine.task import Task
from hubquant.imatrix import load_imatrix
from hubquant.pipeline.contents import IMATRIX
from hubquant.units import counted

if TYPE_CHECKING:
    from hubquant.imatrix import ImportanceMatrix


def left_out(skipped: Sequence[int], unit: str) -> str:
    """Tells of what did not count, by the numbers of each ``unit``."""
    numbers = ", ".join(map(str, skipped[:10]))
    return f"{counted(len(skipped), unit)} gave activations that are not finite, and left out: {numbers}"


class ImatrixTask(Task["ImportanceMatrix"]):
    """Makes a file of an importance matrix in its folder."""

    kind = "imatrix"

    @property
    def label(self) -> str:
        return "importance matrix"

    def read(self, folder: Path) -> ImportanceMatrix:
        return load_imatrix(folder / IMATRIX)
