"""What all plots look like."""

from __future__ import annotations

from io import BytesIO

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 8.0, 5.0, 120
INK, FAINT, FRONT, BEHIND = "#222222", "#d9d9d9", "#1f5fa8", "#9aa4ae"
SERIES = (FRONT, "#c8641a", "#2f8f57", "#8a4fae", "#b03a48", "#6b6b1f")


def axes_of(title: str, x: str, y: str) -> tuple[FigureCanvasAgg, Axes]:
    """An empty plot with its axes' names."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained", facecolor="white")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(which="major", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", colors=INK, length=0)
    return canvas, axes


def plain_numbers(axes: Axes, *names: str) -> None:
    """Without exponents on the axes ``names``, which may be logarithmic."""
    for name in names:
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticker.NullFormatter())


def png(canvas: FigureCanvasAgg) -> bytes:
    """Equal plots give equal bytes."""
    buffer = BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
