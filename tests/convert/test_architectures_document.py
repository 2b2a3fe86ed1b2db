from __future__ import annotations

import pytest

pytest.importorskip("xllamacpp")


def test_the_document_is_that_of_the_registry() -> None:
    from scripts.architectures import DOCUMENT, document

    written = DOCUMENT.read_text(encoding="utf-8")
    assert written == document(), "run: python -m scripts.architectures"
