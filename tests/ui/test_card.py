"""A card in the page is what the Hub shows, and nothing of it runs."""

from __future__ import annotations

import pytest

from hubquant.ui.card import card_html

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
