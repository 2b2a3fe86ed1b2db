"""Importance matrices as text; statistics have the columns and formats of ``llama-imatrix --show-statistics``."""

from __future__ import annotations

from hubquant.imatrix.difference import EntryDifference, MatrixDifference
from hubquant.imatrix.matrix import ImportanceMatrix
from hubquant.imatrix.statistics import LayerStatistics, Statistics, TensorStatistics
from hubquant.units import counted

LONGEST_FACT = 160  # characters

_TENSOR = 20  # columns, unless a name is longer
_MEASURES = (
    f"{'Σ(Act²)':>10} {'Min':>8} {'Max':>11} {'μ':>6} {'σ':>6} {'% Active':>9} {'N':>6} "
    f"{'Entropy':>10} {'E (norm)':>8} {'ZD':>11} {'CosSim':>8}"
)
_LAYERS = f"{'Layer':>5} {'μΣ(Act²)':>14} {'μZD':>11} {'μCosSim':>8}"
_DIFFERENCES = f"{'Weight':<30} {'Relative':>9} {'CosSim':>9} {'Counts':>9} {'Rows A':>9} {'Rows B':>9}"


def facts_table(matrix: ImportanceMatrix) -> str:
    """What the matrix says of itself, a line each."""
    facts = {
        "datasets": ", ".join(matrix.datasets) or "unknown",
        **(
            {"pictures": str(matrix.chunk_count)}
            if matrix.of_pictures
            else {"chunks": f"{matrix.chunk_count} of {matrix.chunk_size} tokens"}
        ),
        "entries": str(len(matrix.entries)),
        **matrix.provenance,
    }
    width = max(map(len, facts))
    return "\n".join(f"{key:<{width}}  {_short(value)}" for key, value in facts.items())


def statistics_table(statistics: Statistics) -> str:
    """Two tables: one row per weight, one per block."""
    width = max([_TENSOR, *(len(row.tensor) for row in statistics.tensors)])
    heads = f"{'Layer':>5} {'Tensor':<{width}} {_MEASURES}"
    tensors = [heads, "-" * len(heads), *(_tensor_row(row, width) for row in statistics.tensors)]
    layers = [_LAYERS, "-" * len(_LAYERS), *map(_layer_row, statistics.layers)]
    return "\n".join([*tensors, "", *layers])


def _tensor_row(row: TensorStatistics, width: int) -> str:
    return (
        f"{'-' if row.layer is None else row.layer:>5} {row.tensor:<{width}} {row.total:>10.2f} {row.minimum:>8.4f} "
        f"{row.maximum:>11.4f} {row.mean:>6.2f} {row.deviation:>6.2f} {100 * row.active:>8.2f}% {row.n:>6d} "
        f"{row.entropy:>10.4f} {100 * row.entropy_norm:>7.2f}% {100 * row.zd:>10.2f}% {row.similarity:>8.4f}"
    )


def _layer_row(row: LayerStatistics) -> str:
    return f"{row.layer:>5d} {row.total:>14.2f} {100 * row.zd:>10.4f}% {row.similarity:>8.4f}"


def difference_table(difference: MatrixDifference, tolerance: float) -> str:
    """What differs by more than ``tolerance``, the largest first, and a summary."""
    differing = difference.differing(tolerance)
    lines = [f"only in {place}: {name}" for place, names in _alone(difference) for name in names]
    lines += [f"{key}: {_fact(first)} in A, {_fact(second)} in B" for key, (first, second) in difference.facts.items()]
    if differing:
        lines += [_DIFFERENCES, "-" * len(_DIFFERENCES), *map(_difference_row, differing)]
    beyond = f" by more than {tolerance:g}" if tolerance else ""
    largest = max((entry.relative for entry in difference.entries if entry.relative is not None), default=0.0)
    return "\n".join(
        [
            *lines,
            f"{counted(len(difference.entries), 'weight')} in both: "
            f"{counted(len(differing), 'differs', 'differ')}{beyond}, "
            f"the largest relative difference is {largest:.3g}",
            f"{counted(len(difference.only_first), 'weight')} only in A, {len(difference.only_second)} only in B",
        ]
    )


def _short(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= LONGEST_FACT else line[: LONGEST_FACT - 1] + "…"


def _alone(difference: MatrixDifference) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return ("A", difference.only_first), ("B", difference.only_second)


def _fact(value: object) -> str:
    return "nothing" if value is None else _short(", ".join(value) if isinstance(value, list) else str(value))


def _difference_row(row: EntryDifference) -> str:
    if row.relative is None or row.counts is None:
        sizes = " and ".join(" × ".join(map(str, size)) for size in row.sizes)
        return f"{row.name:<30} sizes {sizes}"
    similarity = f"{'-':>9}" if row.similarity is None else f"{row.similarity:>9.6f}"
    return f"{row.name:<30} {row.relative:>9.3e} {similarity} {row.counts:>9.3e} {row.rows[0]:>9,} {row.rows[1]:>9,}"
