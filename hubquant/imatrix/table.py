"""Statistics as text, with the columns and formats of ``llama-imatrix --show-statistics``."""

from __future__ import annotations

from hubquant.imatrix.statistics import LayerStatistics, Statistics, TensorStatistics

_TENSORS = (
    f"{'Layer':>5} {'Tensor':<20} {'Σ(Act²)':>10} {'Min':>8} {'Max':>11} {'μ':>6} {'σ':>6} {'% Active':>9} {'N':>6} "
    f"{'Entropy':>10} {'E (norm)':>8} {'ZD':>11} {'CosSim':>8}"
)
_LAYERS = f"{'Layer':>5} {'μΣ(Act²)':>14} {'μZD':>11} {'μCosSim':>8}"


def statistics_table(statistics: Statistics) -> str:
    """Two tables: one row per weight, one per block."""
    tensors = [_TENSORS, "-" * len(_TENSORS), *map(_tensor_row, statistics.tensors)]
    layers = [_LAYERS, "-" * len(_LAYERS), *map(_layer_row, statistics.layers)]
    return "\n".join([*tensors, "", *layers])


def _tensor_row(row: TensorStatistics) -> str:
    return (
        f"{'-' if row.layer is None else row.layer:>5} {row.tensor:<20} {row.total:>10.2f} {row.minimum:>8.4f} "
        f"{row.maximum:>11.4f} {row.mean:>6.2f} {row.deviation:>6.2f} {100 * row.active:>8.2f}% {row.n:>6d} "
        f"{row.entropy:>10.4f} {100 * row.entropy_norm:>7.2f}% {100 * row.zd:>10.2f}% {row.similarity:>8.4f}"
    )


def _layer_row(row: LayerStatistics) -> str:
    return f"{row.layer:>5d} {row.total:>14.2f} {100 * row.zd:>10.4f}% {row.similarity:>8.4f}"
