"""What the pipeline tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def small_settings() -> list[str]:
    """Overrides that keep a run to a few seconds."""
    settings = (
        "calibration.chunk_size=64",
        "calibration.chunks=4",
        "evaluate.chunk_size=64",
        "evaluate.chunks=3",
        "evaluate.engine=torch",
        "quantize.types=[Q8_0, Q4_K_M]",
    )
    return [part for setting in settings for part in ("--set", setting)]
