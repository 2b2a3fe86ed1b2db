"""How two importance matrices differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hubquant.imatrix.matrix import Entry, ImportanceMatrix


@dataclass(frozen=True)
class EntryDifference:
    """Between two entries of one weight, over the means of x² of the matrices that saw rows in both.

    ``relative``: ‖a − b‖ / max(‖a‖, ‖b‖), 0 for equal means; ``similarity``: cosine of a and b, None when one of
    them is zero; ``rows``: rows seen, of all matrices together; ``counts``: the largest |c − d| / max(c, d) of a
    matrix's counts. ``sizes`` are [n_mat, n_in] of both; where they differ the rest is None.
    """

    name: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    rows: tuple[int, int]
    relative: float | None
    similarity: float | None
    counts: float | None

    def within(self, tolerance: float) -> bool:
        return (
            self.relative is not None
            and self.counts is not None
            and self.relative <= tolerance
            and self.counts <= tolerance
        )


@dataclass(frozen=True)
class MatrixDifference:
    """``only_first`` and ``only_second`` are weights that one matrix alone has; ``entries`` are those of both, other
    sizes and then the largest difference first; ``facts`` are what both say of themselves where it differs."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    entries: tuple[EntryDifference, ...]
    facts: Mapping[str, tuple[Any, Any]]

    def differing(self, tolerance: float) -> tuple[EntryDifference, ...]:
        return tuple(entry for entry in self.entries if not entry.within(tolerance))

    def within(self, tolerance: float) -> bool:
        """Whether the same weights have the same means and counts up to ``tolerance``; facts do not matter."""
        return not (self.only_first or self.only_second or self.differing(tolerance))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(first: ImportanceMatrix, second: ImportanceMatrix) -> MatrixDifference:
    """Of the means per column, weight by weight. Matrices of different models differ in sizes, which is no error."""
    both = [name for name in first.entries if name in second.entries]
    entries = [entry_difference(name, first.entries[name], second.entries[name]) for name in both]
    entries.sort(key=lambda entry: (entry.relative is not None, -(entry.relative or 0), -(entry.counts or 0)))
    return MatrixDifference(
        tuple(name for name in first.entries if name not in second.entries),
        tuple(name for name in second.entries if name not in first.entries),
        tuple(entries),
        _facts(first, second),
    )


def entry_difference(name: str, first: Entry, second: Entry) -> EntryDifference:
    """Of one weight, in float64; where one of them has its matrices in one row, as .dat files have, by matrix too."""
    n_mat = max(len(first.counts), len(second.counts))
    a, b = first.by_matrix(n_mat), second.by_matrix(n_mat)
    sizes = _size(first), _size(second)
    rows = int(first.counts.sum()), int(second.counts.sum())
    if a.in_sum2.shape != b.in_sum2.shape:
        return EntryDifference(name, sizes, rows, None, None, None)
    seen = (a.counts > 0) & (b.counts > 0)
    x, y = (entry.in_sum2[seen] / entry.counts[seen, None] for entry in (a, b))
    norms = [float(torch.linalg.vector_norm(means)) for means in (x, y)]
    most = torch.maximum(a.counts, b.counts)
    return EntryDifference(
        name,
        sizes,
        rows,
        relative=float(torch.linalg.vector_norm(x - y)) / max(norms) if max(norms) > 0 else 0.0,
        similarity=min(1.0, float((x * y).sum()) / (norms[0] * norms[1])) if min(norms) > 0 else None,
        counts=float(((a.counts - b.counts).abs() / most.clamp(min=1)).max()),
    )


def _size(entry: Entry) -> tuple[int, int]:
    return entry.in_sum2.shape[0], entry.in_sum2.shape[1]


def _facts(first: ImportanceMatrix, second: ImportanceMatrix) -> dict[str, tuple[Any, Any]]:
    one, other = ({**matrix.facts(), **matrix.provenance} for matrix in (first, second))
    keys = dict.fromkeys((*one, *other))
    return {
        key: (one.get(key), other.get(key)) for key in keys if key != "provenance" and one.get(key) != other.get(key)
    }
