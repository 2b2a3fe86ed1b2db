"""What a calibration did not reach, and estimates in its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from hubquant.errors import ImatrixError
from hubquant.imatrix.matrix import Entry, ImportanceMatrix
from hubquant.imatrix.statistics import split_name
from hubquant.units import counted

ESTIMATED = "estimated"
"""The key of the provenance that names estimates: weight -> experts, or an empty list for all of it."""
FEW_ROWS = 100  # a mean of squares of so few is off by tens of percent


@dataclass(frozen=True)
class Coverage:
    """Of experts, by weight: those that saw no row and those that saw few; ``missing`` weights saw none at all."""

    unseen: Mapping[str, tuple[int, ...]]
    few: Mapping[str, tuple[int, ...]]
    missing: tuple[str, ...]

    def notes(self) -> list[str]:
        """What a user should know, a line each."""
        lines = []
        for experts, what in ((self.unseen, "saw no token"), (self.few, f"saw fewer than {FEW_ROWS} tokens")):
            if experts:
                lines.append(f"{counted(sum(map(len, experts.values())), 'expert')} {what}: {_named(experts)}")
        if self.missing:
            found = counted(len(self.missing), "weight was", "weights were")
            lines.append(f"{found} never reached: {', '.join(self.missing[:3])}")
        return lines


def coverage(matrix: ImportanceMatrix, expected: Iterable[str]) -> Coverage:
    """``expected`` are the weights that should have an entry."""
    unseen, few = {}, {}
    for name, entry in matrix.entries.items():
        if len(entry.counts) > 1:
            if none := tuple(torch.where(entry.counts == 0)[0].tolist()):
                unseen[name] = none
            if little := tuple(torch.where((entry.counts > 0) & (entry.counts < FEW_ROWS))[0].tolist()):
                few[name] = little
    return Coverage(unseen, few, tuple(name for name in expected if not _reached(matrix, name)))


def with_estimates(
    matrix: ImportanceMatrix, shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
) -> ImportanceMatrix:
    """The matrix with pooled statistics where it saw nothing, marked in its provenance.

    An expert gets the mean over the rows of its weight's other experts; a weight without data that of the weights in
    its layer with as many columns. Each counts as one row. ``shapes`` are those of the weights that should have an
    entry, [(n_mat,) n, n_in].
    """
    entries = dict(matrix.entries)
    marks: dict[str, list[int]] = {}
    for name, entry in matrix.entries.items():
        unseen = entry.counts == 0
        if bool(unseen.any()) and not bool(unseen.all()):
            entries[name], marks[name] = _filled(entry, unseen), torch.where(unseen)[0].tolist()
    for name, shape in shapes.items():
        if not _reached(matrix, name) and (pooled := _of_layer(matrix, name, shape)) is not None:
            entries[name], marks[name] = pooled, []
    if not marks:
        return matrix
    return replace(matrix, entries=entries, provenance={**matrix.provenance, ESTIMATED: json.dumps(marks)})


def without_estimates(matrix: ImportanceMatrix) -> ImportanceMatrix:
    """The matrix as it was before ``with_estimates``: what was seen can be added to what others saw."""
    if ESTIMATED not in matrix.provenance:
        return matrix
    entries = dict(matrix.entries)
    for name, experts in _marks(matrix.provenance[ESTIMATED]).items():
        if not experts:
            entries.pop(name, None)
        elif name in entries and max(experts) < len(entries[name].counts):
            entries[name] = _emptied(entries[name], experts)
    provenance = {key: value for key, value in matrix.provenance.items() if key != ESTIMATED}
    return replace(matrix, entries=entries, provenance=provenance)


def _marks(text: str) -> dict[str, list[int]]:
    try:
        return TypeAdapter(dict[str, list[NonNegativeInt]]).validate_json(text)
    except ValidationError:
        raise ImatrixError(
            f"the importance matrix is damaged: hubquant.{ESTIMATED} cannot be read", hint="collect it again"
        ) from None


def _reached(matrix: ImportanceMatrix, name: str) -> bool:
    return name in matrix.entries and bool((matrix.entries[name].counts > 0).any())


def _filled(entry: Entry, unseen: torch.Tensor) -> Entry:
    rows = entry.counts.sum()
    sum2, counts = entry.in_sum2.clone(), entry.counts.clone()
    sum2[unseen], counts[unseen] = entry.in_sum2.sum(0) / rows, 1
    in_sum = None
    if entry.in_sum is not None:
        in_sum = entry.in_sum.clone()
        in_sum[unseen] = entry.in_sum.sum(0) / rows
    return Entry(sum2, counts, in_sum)


def _emptied(entry: Entry, experts: list[int]) -> Entry:
    sum2, counts = entry.in_sum2.clone(), entry.counts.clone()
    sum2[experts], counts[experts] = 0.0, 0
    in_sum = entry.in_sum
    if in_sum is not None:
        in_sum = in_sum.clone()
        in_sum[experts] = 0.0
    return Entry(sum2, counts, in_sum)


def _of_layer(matrix: ImportanceMatrix, name: str, shape: tuple[int, ...]) -> Entry | None:
    layer, _ = split_name(name)
    n_in = shape[-1]
    neighbours = [
        entry
        for other, entry in matrix.entries.items()
        if split_name(other)[0] == layer and entry.in_sum2.shape[1] == n_in and _reached(matrix, other)
    ]
    if layer is None or not neighbours:
        return None
    rows = sum(int(entry.counts.sum()) for entry in neighbours)
    mean = torch.stack([entry.in_sum2.sum(0) for entry in neighbours]).sum(0) / rows
    n_mat = math.prod(shape[:-2])
    return Entry(mean.expand(n_mat, -1).clone(), torch.ones(n_mat, dtype=torch.int64))


def _named(experts: Mapping[str, tuple[int, ...]]) -> str:
    first = [f"{name} {', '.join(map(str, numbers[:4]))}" for name, numbers in list(experts.items())[:3]]
    return "; ".join(first) + (f"; and in {len(experts) - 3} more weights" if len(experts) > 3 else "")
