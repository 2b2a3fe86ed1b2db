"""What ``llama-imatrix --show-statistics`` prints, computed in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hubquant.imatrix.matrix import Entry, ImportanceMatrix

ACTIVE = 1e-5  # smallest mean of x² of a column that counts as used


@dataclass(frozen=True)
class TensorStatistics:
    """Over a, the mean of x² of each input column (of every expert that saw a row).

    ``total``: Σa; ``mean`` and ``deviation`` (population) of a; ``active``: share of columns with a > 1e-5;
    ``entropy``: of a / Σa in bits, and ``entropy_norm`` divided by log2 n; ``zd``: share of columns more than one
    deviation above the mean; ``similarity``: cosine of Σx² with the same weight of the block before, 0 when there is
    none. Shares are from 0 to 1.
    """

    name: str
    layer: int | None
    tensor: str
    total: float
    minimum: float
    maximum: float
    mean: float
    deviation: float
    active: float
    n: int
    entropy: float
    entropy_norm: float
    zd: float
    similarity: float


@dataclass(frozen=True)
class LayerStatistics:
    """Means over a block's weights, each weighing its number of columns."""

    layer: int
    total: float
    zd: float
    similarity: float


@dataclass(frozen=True)
class Statistics:
    """``tensors`` by short name, then largest total first; ``layers`` in order."""

    tensors: tuple[TensorStatistics, ...]
    layers: tuple[LayerStatistics, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def statistics(matrix: ImportanceMatrix) -> Statistics:
    """The table of ``llama-imatrix --show-statistics``. Entries that saw no row are left out."""
    found = (tensor_statistics(name, matrix.entries) for name in matrix.entries)
    rows = [row for row in found if row is not None]
    rows.sort(key=lambda row: (row.tensor, -row.total))
    numbers = sorted({row.layer for row in rows if row.layer is not None})
    return Statistics(tuple(rows), tuple(_layer(n, [row for row in rows if row.layer == n]) for n in numbers))


def tensor_statistics(name: str, entries: Mapping[str, Entry]) -> TensorStatistics | None:
    """Of the entry ``name``; None when it saw no row. The other ``entries`` have the block before it."""
    entry = entries[name]
    seen = entry.counts > 0
    a = (entry.in_sum2[seen] / entry.counts[seen, None]).flatten()
    n = a.numel()
    if n == 0:
        return None
    layer, tensor = split_name(name)
    total = float(a.sum())
    mean = total / n
    deviation = math.sqrt(max(0.0, float(a.square().sum()) / n - mean**2))
    p = a[a > 0] / total if total > 0 else a[:0]
    entropy = float(-(p * p.log2()).sum())
    return TensorStatistics(
        name=name,
        layer=layer,
        tensor=tensor,
        total=total,
        minimum=float(a.min()),
        maximum=float(a.max()),
        mean=mean,
        deviation=deviation,
        active=int((a > ACTIVE).sum()) / n,
        n=n,
        entropy=entropy,
        entropy_norm=entropy / math.log2(n) if n > 1 else 0.0,
        zd=int(((a - mean) / deviation > 1).sum()) / n if deviation > 0 else 0.0,
        similarity=_similarity(entry, entries.get(name.replace(f"blk.{layer}.", f"blk.{layer - 1}.", 1)))
        if layer
        else 0.0,
    )


def split_name(name: str) -> tuple[int | None, str]:
    """ "blk.3.attn_q.weight" and those of an encoder, "enc.blk.3.attn_q.weight" -> (3, "attn_q"); "output.weight" ->
    (None, "output")."""
    parts = name.removeprefix("enc.").split(".")
    layer = int(parts[1]) if len(parts) > 2 and parts[0] == "blk" and parts[1].isdecimal() else None
    if layer is None:
        return None, name.removesuffix(".weight")
    return layer, parts[parts.index("weight") - 1] if "weight" in parts[1:] else name


def _similarity(entry: Entry, before: Entry | None) -> float:
    if before is None or before.in_sum2.shape != entry.in_sum2.shape:
        return 0.0
    x, y = entry.in_sum2.flatten(), before.in_sum2.flatten()
    norms = float(torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y))
    return float(x @ y) / norms if norms > 0 else 0.0


def _layer(number: int, rows: list[TensorStatistics]) -> LayerStatistics:
    n = sum(row.n for row in rows)
    return LayerStatistics(
        number,
        sum(row.n * row.total for row in rows) / n,
        sum(row.n * row.zd for row in rows) / n,
        sum(row.n * row.similarity for row in rows) / n,
    )
