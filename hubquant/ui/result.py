"""What a finished job has made, read from the files in its output folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hubquant.publish.html import text
from hubquant.publish.measurements import read_measurements
from hubquant.publish.recommendation import DIVERGENCES, FIDELITIES, SIMILARITIES, measure_of
from hubquant.publish.table import TEXT_COLUMNS
from hubquant.publish.table import table as measured_table
from hubquant.ui.card import card_html
from hubquant.ui.html import link, message, table
from hubquant.units import size

if TYPE_CHECKING:
    from pathlib import Path

    from hubquant.jobs.queue import Result

CARD, MEASUREMENTS, PLOT, GRID = "README.md", "measurements.json", "plot.png", "grid.webp"
HINTS = {
    DIVERGENCES: (
        "KLD (Kullback–Leibler divergence) says how far a file's predictions are from the original's: 0 is none."
    ),
    SIMILARITIES: "Cosine and rank correlation say how alike a file and the original embed texts: 1 is the same.",
    FIDELITIES: "Prediction error says how far a file's denoising predictions are from the original's: 0 is none.",
}
LARGEST_TEXT = 1 << 21  # bytes of a card or of measurements, which are ours


def address(job: str, name: str) -> str:
    """Where a file of a job can be taken, below the app's own address."""
    return f"jobs/{job}/files/{quote(name)}"


def result_card(job: str, result: Result, files: Mapping[str, int]) -> str:
    """``files`` are all that the job has to be taken, with their sizes."""
    own = f"{result.folder.name}/"
    names = [name for name in files if name.startswith(own)]
    parts = []
    if result.record and result.record.url:
        parts.append(message("Published", kind="good"))
        parts.append(f"<p>{link(result.record.url, result.record.url)}</p>")
    measured = read_measurements(_read(result.folder / MEASUREMENTS)).files
    if measured:
        measure = measure_of(file.measured for file in measured)
        shown = measured_table([file.measured for file in measured])
        numbers = [i for i, name in enumerate(shown.columns) if name not in TEXT_COLUMNS]
        cells = [[_cell(cell) for cell in row] for row in shown.rows]
        parts.append(table(f"Size and {measure.name} from the original", shown.columns, cells, numbers))
        hint = f"{HINTS[measure]} The smallest file near enough is recommended."
        parts.append(f'<p class="hq-hint">{text(hint)}</p>')
        pictures = {
            PLOT: f"Size of each file against its {measure.name}",
            GRID: "Pictures by the original and each file",
        }
        for name, what in pictures.items():
            if own + name in files:
                shown_picture = f'<img src="{address(job, own + name)}" alt="{text(what)}">'
                parts.append(f'<figure class="hq-plot">{shown_picture}</figure>')
    rows = [
        (f'<a href="{address(job, name)}" download>{text(name.removeprefix(own))}</a>', size(files[name]))
        for name in sorted(names, key=lambda name: (not name.endswith(".gguf"), name))
    ]
    if rows:
        parts.append(table("Files to download", ("File", "Size"), rows, (1,)))
    return f'<section aria-label="Result"><h2>{text(result.folder.name)}</h2>{"".join(parts)}</section>'


def shown_card(job: str, result: Result, files: Mapping[str, int]) -> str:
    """The model card, as the Hub will show it."""
    content = _read(result.folder / CARD).decode("utf-8", "replace")

    def place_of(name: str) -> str | None:
        path = f"{result.folder.name}/{name}"
        return address(job, path) if path in files else None

    return card_html(content, place_of) if content else ""


def as_data(job: str, result: Result, files: Mapping[str, int]) -> dict[str, Any]:
    """The same for programs."""
    own = f"{result.folder.name}/"
    measured = read_measurements(_read(result.folder / MEASUREMENTS)).files
    return {
        "model": result.model,
        "url": result.record.url if result.record else None,
        "error": result.record.error if result.record else None,
        "measurements": [
            {
                "file": file.paths[0],
                "type": file.type,
                "size": file.size,
                "bpw": file.bpw,
                "kld_mean": file.divergence.kld.mean if file.divergence else None,
                "same_top": file.divergence.same_top if file.divergence else None,
                "prediction_error": file.fidelity.error if file.fidelity else None,
            }
            for file in measured
        ],
        "files": {
            name: {"size": n, "address": address(job, name)} for name, n in files.items() if name.startswith(own)
        },
    }


def _cell(cell: str) -> str:
    shown = text(cell)
    return f"<strong>{shown}</strong>" if cell.startswith("recommended") else shown


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= LARGEST_TEXT else b""
    except OSError:
        return b""
