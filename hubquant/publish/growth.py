"""What a refinement came to: a table, and a curve of the scores over the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hubquant.publish.figure import BEHIND, SERIES, axes_of, plain_numbers, png
from hubquant.publish.table import MISSING, Table
from hubquant.units import measured


@dataclass(frozen=True)
class Point:
    """A file that was made with a matrix of ``tokens`` of ``mix``, or without one: 0 tokens. ``gain`` of its composite
    score over the file before it, ± half of its confidence interval; ``note`` is what became of it."""

    mix: str
    tokens: int
    kld: float
    kld_error: float
    composite: float
    composite_error: float
    gain: tuple[float, float] | None
    note: str


def growth_table(points: Sequence[Point]) -> Table:
    mixes = len({point.mix for point in points if point.tokens}) > 1
    columns = (*(["Mix"] if mixes else []), "Tokens", "Mean KLD", "Composite score", "Gain", "Note")
    rows = tuple((*([point.mix or MISSING] if mixes else []), *_cells(point)) for point in points)
    return Table(columns, rows)


def _cells(point: Point) -> tuple[str, ...]:
    gain = MISSING if point.gain is None else f"{point.gain[0]:+.5f} ± {point.gain[1]:.5f}"
    return (
        f"{point.tokens:,}" if point.tokens else "no matrix",
        measured(point.kld, point.kld_error),
        measured(point.composite, point.composite_error),
        gain,
        point.note,
    )


def plot_growth(points: Sequence[Point], title: str) -> bytes:
    """PNG of the composite score ± its standard error over the tokens of the matrix; equal input gives equal bytes."""
    canvas, axes = axes_of(title, "tokens of calibration text (log scale)", "composite score (nats)")
    axes.set_xscale("log")
    for point in points:
        if not point.tokens:
            axes.axhline(point.composite, color=BEHIND, linewidth=1, linestyle="--", label="no matrix")
    mixes = dict.fromkeys(point.mix for point in points if point.tokens)
    for color, mix in zip((SERIES * len(mixes))[: len(mixes)], mixes, strict=True):
        of_mix = [point for point in points if point.tokens and point.mix == mix]
        axes.errorbar(
            [point.tokens for point in of_mix],
            [point.composite for point in of_mix],
            [point.composite_error for point in of_mix],
            color=color,
            marker="o",
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=mix or "with a matrix",
        )
    axes.set_xticks(sorted({point.tokens for point in points if point.tokens}))
    axes.legend(frameon=False)
    plain_numbers(axes, "x", "y")
    return png(canvas)
