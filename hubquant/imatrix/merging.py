"""One importance matrix from several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix.coverage import with_estimates, without_estimates
from hubquant.imatrix.matrix import Entry, ImportanceMatrix, chunk_count

MODEL_FACT = "model_"  # begins the keys of provenance that must agree
ADDED = ("denoiser_calls", "predictions", "prompts", "skipped_pictures")
"""Keys of provenance that are counts, and add up where all matrices have them."""


def merge(matrices: Iterable[ImportanceMatrix], weights: Sequence[float] | None = None) -> ImportanceMatrix:
    """Add ``matrices`` element by element, so that each weighs as many tokens as it saw. One is held at a time.

    ``weights`` multiply the sums and the counts of each, as if it had seen so many times the tokens. Where that gives
    counts that are not whole (files keep whole ones) they are rounded, no count to zero, and the sums are scaled
    with them, which leaves every mean as it is. The number of chunks follows from the counts; pictures add up.

    Datasets are those of all, each once. Of the provenance stays what all matrices agree on. Estimates are made anew
    from what all of them saw.

    Raises ``ImatrixError`` for different chunk sizes, for facts of the model that differ, and for the first weight
    whose size differs; ``ValueError`` for no matrices, and for weights that are not positive or of another number.
    """
    if weights is not None and not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights must be positive, not {list(weights)}")
    totals: dict[str, Entry] = {}
    datasets: dict[str, None] = {}
    known: dict[str, tuple[str, int]] = {}
    common: dict[str, str] | None = None
    chunk_size, pictures = None, 0.0
    pairs = zip(matrices, repeat(1.0)) if weights is None else zip(matrices, weights, strict=True)
    for number, (given, weight) in enumerate(pairs, 1):
        matrix = without_estimates(given)
        chunk_size = matrix.chunk_size if chunk_size is None else chunk_size
        _check_chunk_size(matrix, chunk_size, number)
        _check_model(matrix.provenance, known, number)
        for name, entry in matrix.entries.items():
            part = _weighted(entry, weight)
            totals[name] = _add(totals[name], part, name, number) if name in totals else part
        datasets.update(dict.fromkeys(matrix.datasets))
        pictures += weight * matrix.chunk_count
        facts = _weighted_facts(matrix.provenance, weight)
        common = facts if common is None else _common(common, facts)
    if chunk_size is None:
        raise ValueError("there is nothing to merge")
    entries = {name: whole(total) for name, total in totals.items()}
    merged = ImportanceMatrix(entries, tuple(datasets), chunk_size, chunk_count(entries, chunk_size), common or {})
    return with_estimates(replace(merged, chunk_count=round(pictures)) if merged.of_pictures else merged)


def _check_chunk_size(matrix: ImportanceMatrix, chunk_size: int, number: int) -> None:
    if matrix.chunk_size != chunk_size:
        raise ImatrixError(
            "the matrices have different chunk sizes",
            why=f"{chunk_size} tokens in matrix 1 and {matrix.chunk_size} in matrix {number}",
            hint="collect them with the same chunk size",
        )


def _check_model(provenance: Mapping[str, str], known: dict[str, tuple[str, int]], number: int) -> None:
    """``known`` remembers each fact of the model with the number of the matrix that told it first."""
    for key, value in provenance.items():
        if not key.startswith(MODEL_FACT):
            continue
        first, since = known.setdefault(key, (value, number))
        if value != first:
            raise ImatrixError(
                "the matrices do not belong to one model",
                why=f"{key} is {first} in matrix {since} and {value} in matrix {number}",
                hint="merge matrices of the same weights",
            )


def _weighted(entry: Entry, weight: float) -> Entry:
    """With counts that need not be whole, float64."""
    in_sum = None if entry.in_sum is None else entry.in_sum * weight
    return Entry(entry.in_sum2 * weight, entry.counts.double() * weight, in_sum)


def _add(total: Entry, part: Entry, name: str, number: int) -> Entry:
    n_mat = max(len(total.counts), len(part.counts))
    a, b = total.by_matrix(n_mat), part.by_matrix(n_mat)
    if a.in_sum2.shape != b.in_sum2.shape:
        raise ImatrixError(
            f"the matrices do not belong to one model: {name} has different sizes",
            why=f"{list(b.in_sum2.shape)} in matrix {number} and {list(a.in_sum2.shape)} before",
            hint="merge matrices of the same weights",
        )
    in_sum = None if a.in_sum is None or b.in_sum is None else a.in_sum + b.in_sum
    return Entry(a.in_sum2 + b.in_sum2, a.counts + b.counts, in_sum)


def _weighted_facts(facts: Mapping[str, str], weight: float) -> dict[str, str]:
    return {key: _count(value, weight) if key in ADDED else value for key, value in facts.items()}


def _count(value: str, weight: float) -> str:
    return str(round(int(value) * weight)) if value.isdecimal() else value


def _common(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """What both say, and the sums of counts."""
    agreed = {key: value for key, value in first.items() if second.get(key) == value and key not in ADDED}
    counts = {key: (first[key], second[key]) for key in ADDED if key in first and key in second}
    return agreed | {key: str(int(a) + int(b)) for key, (a, b) in counts.items() if a.isdecimal() and b.isdecimal()}


def whole(total: Entry) -> Entry:
    """With counts rounded, no count of seen rows to zero, and sums scaled with them, which leaves means as they are."""
    seen = total.counts > 0
    counts = torch.where(seen, total.counts.round().clamp(min=1), 0.0)
    scale = torch.where(seen, counts / total.counts, 1.0)[:, None]
    in_sum = None if total.in_sum is None else total.in_sum * scale
    return Entry(total.in_sum2 * scale, counts.to(torch.int64), in_sum)
