"""A picture of an importance matrix: how large the inputs of every weight are."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from hubquant.imatrix.statistics import Statistics

DPI = 120
INK, ABSENT, HATCH = "#222222", "#eeeeee", "#c4c4c4"
COLOURS = "viridis"
# Inches. The narrowest picture has room for the title; a picture of many blocks gets lower rows.
COLUMN, NARROWEST, AROUND = 0.45, 5.4, 2.0
FEWEST_COLUMNS = 7
ROW, LOWEST_ROW, TALLEST = 0.32, 0.1, 11.0
LABEL, BAR = 0.17, 0.18
LABEL_STEPS = (1, 2, 5, 10, 20, 50, 100)


def heatmap(statistics: Statistics, title: str) -> bytes:
    """PNG of the mean of x² (logarithmic colour) of each weight: blocks downwards, tensors across, those of no block in
    a row of their own. A weight without data is hatched. Equal input gives equal bytes.

    ValueError when no weight has data.
    """
    rows = statistics.tensors
    means = [row.mean for row in rows if row.mean > 0]
    if not means:
        raise ValueError("no weight has data")
    kinds = sorted({row.tensor for row in rows if row.layer is not None})
    others = sorted({row.tensor for row in rows if row.layer is None})
    n_blocks = max((row.layer + 1 for row in rows if row.layer is not None), default=0)
    in_blocks, outside = np.full((n_blocks, len(kinds)), np.nan), np.full((1, len(others)), np.nan)
    for row in rows:
        if row.layer is None:
            outside[0, others.index(row.tensor)] = max(row.mean, min(means))
        else:
            in_blocks[row.layer, kinds.index(row.tensor)] = max(row.mean, min(means))

    columns = max(FEWEST_COLUMNS, len(kinds), len(others))
    row_height = max(LOWEST_ROW, min(ROW, TALLEST / max(1, n_blocks)))
    heights = [row_height * n_blocks] * bool(kinds) + [ROW] * bool(others)
    figure = Figure(
        (max(NARROWEST, COLUMN * columns) + AROUND, sum(heights) + AROUND),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
        facecolor="white",
    )
    canvas = FigureCanvasAgg(figure)
    panels = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    low, high = min(means), max(means)
    norm = LogNorm(low, high) if low < high else LogNorm(low / 10, high * 10)
    if others:
        image = _draw(panels[-1], outside, others, columns, norm)
        panels[-1].set_yticks([])
        panels[-1].set_ylabel("no block", color=INK, rotation=0, ha="right", va="center")
    if kinds:
        image = _draw(panels[0], in_blocks, kinds, columns, norm)
        step = next(step for step in LABEL_STEPS if step * row_height >= LABEL)
        panels[0].set_yticks(range(0, n_blocks, step))
        panels[0].set_ylabel("block", color=INK)
    _describe(
        figure, panels, image, title, bar_aspect=max(6.0, sum(heights) / BAR), legend=bool(np.isnan(in_blocks).any())
    )
    buffer = BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, cells: NDArray[np.float64], names: Sequence[str], columns: int, norm: LogNorm) -> AxesImage:
    """``cells`` [rows, names] in as many columns as the widest panel has; NaN where there is no data."""
    values = np.ma.masked_invalid(cells)
    height, width = cells.shape
    edges = (-0.5, width - 0.5), -0.5, height - 0.5
    axes.fill_between(*edges, facecolor=ABSENT, edgecolor=HATCH, hatch="////", linewidth=0, zorder=-1)
    image = axes.imshow(values, COLOURS, norm, aspect="auto", interpolation="nearest")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_xticks(range(width), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xticks(np.arange(width + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(height + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8 if height * LABEL < TALLEST else 0.3)
    axes.tick_params(which="both", length=0, colors=INK, labelsize=9)
    axes.spines[:].set_visible(False)
    return image


def _describe(
    figure: Figure, panels: Sequence[Axes], image: AxesImage, title: str, *, bar_aspect: float, legend: bool
) -> None:
    panels[0].set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=26)
    panels[0].annotate(
        "how large the inputs of each weight are",
        (0, 1),
        (0, 9),
        xycoords="axes fraction",
        textcoords="offset points",
        color=INK,
        fontsize=9,
    )
    bar = figure.colorbar(image, ax=panels, aspect=bar_aspect, fraction=0.04, pad=0.02)
    bar.set_label("mean of x² (log scale)", color=INK)
    bar.ax.tick_params(which="both", colors=INK, labelsize=9)
    bar.ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    bar.outline.set_visible(False)
    if legend:
        patch = Patch(facecolor=ABSENT, edgecolor=HATCH, hatch="////", linewidth=0, label="no data")
        figure.legend(handles=[patch], loc="outside lower right", frameon=False, fontsize=9, labelcolor=INK)
