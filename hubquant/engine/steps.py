"""The steps of a run, each from what it needs to what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.convert.conversion import Conversion, stream
from hubquant.engine.progress import Progress
from hubquant.engine.source import SourceModel

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hubquant.calibration import Chunks
    from hubquant.imatrix import ImportanceMatrix


def collect(
    model: PreTrainedModel,
    chunks: Chunks,
    conversion: Conversion,
    process_output: bool,
    snapshot: Path,
    progress: Progress,
) -> ImportanceMatrix:
    """Run ``model`` over ``chunks``; goes on from ``snapshot`` when it is there."""
    from hubquant.imatrix import collect as collect_matrix

    with progress.bar("imatrix", len(chunks), "chunks") as advance:
        return collect_matrix(
            model, chunks, conversion.modules, snapshot=snapshot, process_output=process_output, advance=advance
        )


def importance_of(matrix: ImportanceMatrix | None) -> Callable[[str], torch.Tensor | None]:
    """Importance [n_in] of a tensor by name, None for one the matrix does not hold."""

    def importance(name: str) -> torch.Tensor | None:
        return matrix.importance(name) if matrix is not None and name in matrix.entries else None

    return importance


def stream_checkpoint(
    conversion: Conversion, source: SourceModel, names: frozenset[str]
) -> Iterator[tuple[str, torch.Tensor]]:
    return stream(conversion, source.checkpoint, names)


