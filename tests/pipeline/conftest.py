"""Models that the pipeline tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.models.tiny import build

CARD = """---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
tags: [tiny]
---
# A tiny model
"""


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build("llama", tmp_path_factory.mktemp("models") / "tiny-llama")
    (folder / "README.md").write_text(CARD, "utf-8")
    return folder


@pytest.fixture(scope="session")
def small_settings() -> list[str]:
    """Overrides that keep a run to a few seconds."""
    settings = (
        "calibration.chunk_size=64",
        "calibration.chunks=4",
        "evaluate.chunk_size=64",
        "evaluate.chunks=3",
        "quantize.types=[Q8_0, Q4_K_M]",
    )
    return [part for setting in settings for part in ("--set", setting)]
