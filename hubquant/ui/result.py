"""What a finished job has made, read from the files in its output folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hubquant.publish.html import text
from hubquant.publish.measurements import read_measurements
from hubquant.publish.table import TEXT_COLUMNS
from hubquant.publish.table import table as measured_table
from hubquant.ui.card import card_html
from hubquant.ui.html import link, message, table
from hubquant.units import size

if TYPE_CHECKING:
    from pathlib import Path

    from hubquant.jobs.queue import Result

CARD, MEASUREMENTS, PLOT = "README.md", "measurements.json", "plot.png"
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
        shown = measured_table([file.measured for file in measured])
        numbers = [i for i, name in enumerate(shown.columns) if name not in TEXT_COLUMNS]
        cells = [[_cell(cell) for cell in row] for row in shown.rows]
        parts.append(table("Size and divergence from the original", shown.columns, cells, numbers))
        parts.append(
            '<p class="hq-hint">KLD (Kullback–Leibler divergence) says how far a file\'s predictions are from the '
            "original's: 0 is none. The smallest file near enough is recommended.</p>"
        )
    if own + PLOT in files:
        picture = f'<img src="{address(job, own + PLOT)}" alt="Size of each file against its divergence">'
        parts.append(f'<figure class="hq-plot">{picture}</figure>')
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
