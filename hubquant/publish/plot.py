"""The plot on the card: size of each file against its distance from the source."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hubquant.publish.figure import BEHIND, DPI, FRONT, INK, axes_of, plain_numbers, png
from hubquant.publish.recommendation import MeasuredFile, measure_of
from hubquant.units import unit

SMALLEST_KLD = 1e-7
# Where a label may stand, in points from its marker; the first place that is free is taken. The front falls to the
# right, so that there is room to its left and below, and for the files behind it on the other side.
PLACES = ((6, 5), (6, 11), (12, 20), (22, 14), (20, 30), (34, 22), (28, 40), (48, 30), (40, 52), (60, 42), (54, 64))
NEAR = 12

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


def plot(files: Sequence[MeasuredFile], title: str) -> bytes:
    """PNG of the distance from the source (logarithmic) over size for the measured ``files``; equal input gives equal
    bytes.

    Files that no other beats in both are joined by a line. ValueError when nothing was measured.
    """
    points = sorted(
        (file.size, max(file.distance, SMALLEST_KLD), file.type) for file in files if file.distance is not None
    )
    if not points:
        raise ValueError("no file was measured")
    scale, name = unit(points[-1][0])
    sizes, klds = [size / scale for size, _, _ in points], [kld for _, kld, _ in points]
    front = [i for i in range(len(points)) if all(klds[i] < kld for kld in klds[:i])]

    canvas, axes = axes_of(title, f"file size ({name})", measure_of(files).axis)
    axes.set_yscale("log")
    plain_numbers(axes, "x", "y")
    axes.plot([sizes[i] for i in front], [klds[i] for i in front], color=FRONT, linewidth=1.4, alpha=0.6)
    colors = [FRONT if i in front else BEHIND for i in range(len(points))]
    axes.scatter(sizes, klds, s=42, c=colors, zorder=3, edgecolors="white", linewidths=0.8)
    axes.margins(x=0.1, y=0.12)
    _label(canvas, axes, [(sizes[i], klds[i], points[i][2], i in front) for i in range(len(points))])

    return png(canvas)


def _label(canvas: FigureCanvasAgg, axes: Axes, points: Sequence[tuple[float, float, str, bool]]) -> None:
    canvas.draw()
    markers = [tuple(map(float, axes.transData.transform((x, y)))) for x, y, _, _ in points]
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in markers]
    for (x, y, text, on_front), marker in zip(points, markers, strict=True):
        places = [(-right, -up) if on_front else (right, up) for right, up in PLACES]
        label = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", color=INK, fontsize=9)
        extent = label.get_window_extent(canvas.get_renderer())
        label.remove()
        boxes = [_box(marker, place, extent.width, extent.height) for place in places]
        chosen = min(range(len(places)), key=lambda i: (sum(_overlap(boxes[i], box) for box in taken), i))
        taken.append(boxes[chosen])
        _annotate(axes, x, y, text, places[chosen])


def _box(marker: Sequence[float], place: tuple[int, int], width: float, height: float) -> Box:
    x, y = (at + offset * DPI / 72 for at, offset in zip(marker, place, strict=True))
    left, bottom = x if place[0] > 0 else x - width, y if place[1] > 0 else y - height
    return left, bottom, left + width, bottom + height


def _annotate(axes: Axes, x: float, y: float, text: str, place: tuple[int, int]) -> None:
    line = {"arrowstyle": "-", "color": BEHIND, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        text,
        (x, y),
        place,
        textcoords="offset points",
        ha="left" if place[0] > 0 else "right",
        va="bottom" if place[1] > 0 else "top",
        color=INK,
        fontsize=9,
        arrowprops=line if max(map(abs, place)) > NEAR else None,
    )


def _overlap(a: Box, b: Box) -> float:
    """Common area."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
