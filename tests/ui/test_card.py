"""A card in the page is what the Hub shows, and nothing of it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.evaluate.pictures import Fidelity
from hubquant.jobs.queue import Result
from hubquant.publish.measurements import FileMeasurement, MadeWith, dump_measurements
from hubquant.publish.recommendation import MeasuredFile
from hubquant.ui.card import card_html
from hubquant.ui.result import as_data, result_card
from tests.support.measured import divergence

CARD = """---
license: apache-2.0
tags: [gguf, "<b>bold</b>"]
---
# A model

| File | Size |
|:-----|-----:|
| [a.gguf](a.gguf) | 1 GB |

![plot](plot.png) ![far](https://example.org/far.png) [docs](https://example.org/docs)
"""


def place_of(name: str) -> str | None:
    return f"jobs/1/files/{name}" if name in ("plot.png", "a.gguf") else None


def test_tables_pictures_and_links() -> None:
    html = card_html(CARD, place_of)
    assert "<h1>A model</h1>" in html
    assert '<td style="text-align: right">1 GB</td>' in html or '<td style="text-align:right">1 GB</td>' in html
    assert 'src="jobs/1/files/plot.png"' in html
    assert 'href="jobs/1/files/a.gguf"' in html
    assert 'href="https://example.org/docs"' in html
    assert "far.png" not in html
    assert "apache-2.0" in html
    assert "<b>bold</b>" not in html
    assert "license: apache" not in html


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '<img src=x onerror="alert(1)">',
        "[a](javascript:alert(1))",
        '<a href="javascript:alert(1)">a</a>',
        '<iframe src="https://example.org"></iframe>',
        "<svg onload=alert(1)>",
        '<div style="background:url(https://example.org/a.png)">a</div>',
        '<link rel=stylesheet href="https://example.org/a.css">',
        '<form action="https://example.org"><input name=token></form>',
        "![a](//example.org/a.png)",
        "![a](data:text/html;base64,PHNjcmlwdD4=)",
        "---\ntags: !!python/object/apply:os.system [id]\n---\ntext",
        "---\n" + "[" * 50_000 + "\n---\ntext",
    ],
)
def test_nothing_runs_or_is_loaded(hostile: str) -> None:
    html = card_html(hostile, place_of).lower()
    for bad in ("<script", "onerror", "onload", 'href="javascript', "<iframe", "url(", "<link", "<form", "src="):
        assert bad not in html


def test_a_result_explains_what_was_measured(tmp_path: Path) -> None:
    made = MadeWith(model="m", imatrix=None, settings="s", evaluation="e", hubquant="0.3")
    found = {"Q8_0": {"fidelity": Fidelity(0.0123, 0.001, (0.0123,), 4, 4)}, "Q4_0": {"divergence": divergence(0.05)}}
    files = {"M/plot.png": 1, "M/grid.webp": 2, "M/M.gguf": 3}
    shown = {}
    for type, measured in found.items():
        file = FileMeasurement.of(MeasuredFile("M.gguf", type, 3, 8.5, **measured), {"M.gguf": "0" * 64}, made)
        folder = tmp_path / type / "M"
        folder.mkdir(parents=True)
        (folder / "measurements.json").write_bytes(dump_measurements([file], "c"))
        shown[type] = result_card("1", Result("M", folder, None), files)
        data = as_data("1", Result("M", folder, None), files)
        assert data["measurements"][0]["prediction_error"] == (0.0123 if type == "Q8_0" else None)
    assert "Size and prediction error from the original" in shown["Q8_0"]
    assert "0.012 ± 0.001" in shown["Q8_0"]
    assert "denoising predictions" in shown["Q8_0"]
    assert '<img src="jobs/1/files/M/grid.webp" alt="Pictures by the original and each file">' in shown["Q8_0"]
    assert "KLD" not in shown["Q8_0"]
    assert "Size and divergence from the original" in shown["Q4_0"]
    assert "KLD (Kullback" in shown["Q4_0"]
