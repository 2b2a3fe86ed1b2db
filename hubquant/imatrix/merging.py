"""One importance matrix from several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix.coverage import with_estimates, without_estimates
from hubquant.imatrix.matrix import Entry, ImportanceMatrix, chunk_count

MODEL_FACT = "model_"  # begins the keys of provenance that must agree


def merge(matrices: Sequence[ImportanceMatrix], weights: Sequence[float] | None = None) -> ImportanceMatrix:
    """Add ``matrices`` element by element, so that each weighs as many tokens as it saw.

    ``weights`` multiply the sums and the counts of each, as if it had seen so many times the tokens. Where that gives
    counts that are not whole (files keep whole ones) they are rounded, no count to zero, and the sums are scaled
    with them, which leaves every mean as it is. The number of chunks follows from the counts.

    Datasets are those of all, each once. Of the provenance stays what all matrices agree on. Estimates are made anew
    from what all of them saw.

    Raises ``ImatrixError`` for different chunk sizes, for facts of the model that differ, and for the first weight
    whose size differs; ``ValueError`` for weights that are not positive or of another number.
    """
    weights = [1.0] * len(matrices) if weights is None else weights
    if len(weights) != len(matrices) or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"{len(matrices)} matrices need as many positive weights, not {list(weights)}")
    _check_together(matrices)
    matrices = [without_estimates(matrix) for matrix in matrices]
    entries = {
        name: _sum(name, matrices, weights) for name in dict.fromkeys(n for matrix in matrices for n in matrix.entries)
    }
    chunk_size = matrices[0].chunk_size
    whole = ImportanceMatrix(
        entries,
        tuple(dict.fromkeys(dataset for matrix in matrices for dataset in matrix.datasets)),
        chunk_size,
        chunk_count(entries, chunk_size),
        _common([matrix.provenance for matrix in matrices]),
    )
    return with_estimates(whole)


def _check_together(matrices: Sequence[ImportanceMatrix]) -> None:
    for number, matrix in enumerate(matrices, 1):
        if matrix.chunk_size != matrices[0].chunk_size:
            raise ImatrixError(
                "the matrices have different chunk sizes",
                why=f"{matrices[0].chunk_size} tokens in matrix 1 and {matrix.chunk_size} in matrix {number}",
                hint="collect them with the same chunk size",
            )
        for earlier, other in enumerate(matrices[: number - 1], 1):
            shared = [key for key in other.provenance if key.startswith(MODEL_FACT) and key in matrix.provenance]
            for key in shared:
                if other.provenance[key] != matrix.provenance[key]:
                    raise ImatrixError(
                        "the matrices do not belong to one model",
                        why=f"{key} is {other.provenance[key]} in matrix {earlier} and {matrix.provenance[key]} in "
                        f"matrix {number}",
                        hint="merge matrices of the same weights",
                    )


def _sum(name: str, matrices: Sequence[ImportanceMatrix], weights: Sequence[float]) -> Entry:
    numbers = [number for number, matrix in enumerate(matrices) if name in matrix.entries]
    n_mat = max(len(matrices[number].entries[name].counts) for number in numbers)
    parts = [matrices[number].entries[name].by_matrix(n_mat) for number in numbers]
    first = parts[0].in_sum2.shape
    for number, part in zip(numbers, parts, strict=True):
        if part.in_sum2.shape != first:
            raise ImatrixError(
                f"the matrices do not belong to one model: {name} has different sizes",
                why=f"{list(first)} in matrix {numbers[0] + 1} and {list(part.in_sum2.shape)} in matrix {number + 1}",
                hint="merge matrices of the same weights",
            )
    of_parts = [weights[number] for number in numbers]
    counts = _weighted([part.counts.double() for part in parts], of_parts)
    whole = torch.where(counts > 0, counts.round().clamp(min=1), 0.0)
    scale = torch.where(counts > 0, whole / counts, 1.0)[:, None]
    signed = [part.in_sum for part in parts if part.in_sum is not None]
    return Entry(
        _weighted([part.in_sum2 for part in parts], of_parts) * scale,
        whole.to(torch.int64),
        _weighted(signed, of_parts) * scale if len(signed) == len(parts) else None,
    )


def _weighted(parts: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + part * weight
    return total


def _common(provenances: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {
        key: value for key, value in provenances[0].items() if all(other.get(key) == value for other in provenances)
    }
