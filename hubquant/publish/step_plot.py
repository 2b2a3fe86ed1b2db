"""How a denoiser's files follow their source, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from hubquant.publish.figure import SERIES, axes_of, plain_numbers, png
from hubquant.publish.recommendation import FIDELITIES, MeasuredFile

SMALLEST = 1e-6
LINES = ("-", "--", ":", "-.")


def plot_steps(files: Sequence[MeasuredFile], title: str) -> bytes:
    """PNG of the prediction error (logarithmic) over the steps from noise to picture, a line for each of the ``files``
    that was measured; equal input gives equal bytes. ``ValueError`` when none was."""
    from matplotlib.ticker import MaxNLocator

    measured = [(file.type, file.fidelity.by_step) for file in files if file.fidelity]
    if not measured:
        raise ValueError("no file was measured")
    # The legend is read beside the lines, so it has their order: the worst is at the top.
    measured.sort(key=lambda each: -each[1][-1])
    canvas, axes = axes_of(title, "step, from noise to picture", FIDELITIES.axis)
    axes.set_yscale("log")
    for number, (type, errors) in enumerate(measured):
        axes.plot(
            range(1, len(errors) + 1),
            [max(error, SMALLEST) for error in errors],
            color=SERIES[number % len(SERIES)],
            linestyle=LINES[number // len(SERIES) % len(LINES)],
            linewidth=1.4,
            marker="o",
            markersize=3.5,
            label=type,
        )
    plain_numbers(axes, "x", "y")
    axes.set_xlim(0.5, max(len(errors) for _, errors in measured) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return png(canvas)
