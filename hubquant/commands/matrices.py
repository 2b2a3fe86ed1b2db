"""What ``hubquant imatrix`` does with matrices that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hubquant.commands.targets import check_target
from hubquant.disk import write_at_once
from hubquant.engine.progress import Progress
from hubquant.errors import ImatrixError, UserError
from hubquant.imatrix import ImportanceMatrix, Statistics, load_imatrix, lost_in_dat, save
from hubquant.imatrix.files import DAT
from hubquant.pipeline.given_imatrix import imatrix_path, read_sum


def read(reference: str) -> ImportanceMatrix:
    """From a local file, or ``hub:org/repo/file``."""
    return load_imatrix(imatrix_path(reference))


def merge(
    references: Sequence[str], weights: Sequence[float] | None, out: Path, progress: Progress
) -> ImportanceMatrix:
    """Add matrices up and save the sum. ``weights`` has one for each. Raises ``UserError`` otherwise."""
    if weights and len(weights) != len(references):
        raise UserError(
            f"{len(weights)} weights for {len(references)} matrices", hint="give --weight once for each, in their order"
        )
    if weights and not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError("a weight must be larger than 0", hint="leave out the matrix instead")
    check_target(out, "imatrix")
    matrix = read_sum([imatrix_path(reference) for reference in references], weights or None)
    _save(matrix, out, progress)
    return matrix


def convert(reference: str, out: Path, progress: Progress) -> ImportanceMatrix:
    """Save a matrix in the format that the suffix of ``out`` tells."""
    check_target(out, "imatrix")
    matrix = read(reference)
    _save(matrix, out, progress)
    return matrix


def plot(statistics: Statistics, title: str, out: Path) -> None:
    """Save the heat map. Raises ``ImatrixError`` when no entry has data."""
    from hubquant.imatrix.heatmap import heatmap

    check_target(out, "picture")
    try:
        picture = heatmap(statistics, title)
    except ValueError as error:
        raise ImatrixError("there is nothing to draw", why=str(error)) from None
    write_at_once(out, picture)


def _save(matrix: ImportanceMatrix, out: Path, progress: Progress) -> None:
    save(matrix, out)
    if out.suffix == DAT:
        for note in lost_in_dat(matrix):
            progress.note(note)
