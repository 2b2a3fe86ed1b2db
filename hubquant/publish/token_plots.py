"""Pictures of one measurement: how the divergences of its tokens are distributed, and how they are by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hubquant.publish.figure import BEHIND, INK, SERIES, axes_of, plain_numbers, png

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence
    from hubquant.evaluate.report_file import Report

DISTRIBUTION, BY_CHUNK = "kld-distribution.png", "kld-by-chunk.png"
EDGES = np.logspace(-9, 2, 12 * 11 + 1)
QUANTILES = ("50 %", "90 %", "95 %", "99 %", "99.9 %")


def plot_distribution(report: Report, divergence: Divergence, title: str) -> bytes:
    """PNG of the share of tokens by KLD, on a logarithmic axis, for each text; what is below 1e-9 stands there."""
    counts = np.zeros((len(report.texts), len(EDGES) - 1))
    for text, kld in zip(report.text, report.kld(), strict=True):
        counts[text] += np.histogram(np.clip(kld.numpy(), EDGES[0], EDGES[-1]), EDGES)[0]
    canvas, axes = axes_of(title, "KL divergence of a token (nats, log scale)", "share of tokens (%)")
    axes.set_xscale("log")
    for text, name in enumerate(report.texts):
        heights = 100 * counts[text] / max(counts[text].sum(), 1)
        axes.stairs(heights, EDGES, color=_color(text), linewidth=1.4, label=name or "all tokens", fill=False)
    percentiles = divergence.kld.percentiles
    places = [divergence.kld.median, *(percentiles[percent] for percent in (90.0, 95.0, 99.0, 99.9))]
    for place, label in zip(places, QUANTILES, strict=True):
        axes.axvline(max(place, EDGES[0]), color=BEHIND, linewidth=0.8, linestyle="--")
        axes.annotate(
            label,
            (max(place, EDGES[0]), 1),
            (2, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=90,
            va="top",
            color=INK,
            fontsize=8,
        )
    seen = np.flatnonzero(counts.sum(0))
    if len(seen):
        axes.set_xlim(EDGES[seen[0]] / 2, EDGES[seen[-1] + 1] * 2)
    axes.set_ylim(bottom=0)
    if len(report.texts) > 1:
        axes.legend(frameon=False, loc="center left")
    return png(canvas)


def plot_by_chunk(divergence: Divergence, texts: Sequence[str], text: Sequence[int], title: str) -> bytes:
    """PNG of the mean, the median and the 99 % quantile of each chunk; ``text`` [chunks] says which of ``texts``
    it is of."""
    canvas, axes = axes_of(title, "chunk", "KL divergence (nats, log scale)")
    axes.set_yscale("log")
    numbers = np.arange(1, len(divergence.chunks) + 1)
    rows = {
        "99 %": [chunk.percentiles[99.0] for chunk in divergence.chunks],
        "mean": [chunk.mean for chunk in divergence.chunks],
        "median": [chunk.median for chunk in divergence.chunks],
    }
    for marker, (label, values) in zip("^ov", rows.items(), strict=True):
        heights = np.maximum(values, EDGES[0])
        colors = [_color(number) for number in text]
        axes.scatter(numbers, heights, s=18, c=colors, marker=marker, label=label, linewidths=0)
    axes.axhline(max(divergence.kld.mean, EDGES[0]), color=BEHIND, linewidth=0.9, label="mean of all")
    plain_numbers(axes, "x")
    legend = axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    if len(texts) > 1:
        axes.add_artist(legend)
        handles = [axes.scatter([], [], s=18, color=_color(i), label=name or "–") for i, name in enumerate(texts)]
        axes.legend(handles=handles, frameon=False, loc="lower left", bbox_to_anchor=(1, 0))
    return png(canvas)


def _color(number: int) -> str:
    return SERIES[number % len(SERIES)]
