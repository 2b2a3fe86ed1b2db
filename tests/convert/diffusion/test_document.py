"""The table of families in docs/diffusion.md."""

from __future__ import annotations

from scripts.diffusion_families import DOCUMENT, document


def test_the_table_is_that_of_the_code() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert text == document(text), "run: python -m scripts.diffusion_families"
