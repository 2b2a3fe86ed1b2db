"""What a model takes of a machine, measured in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

NEW_TOKENS = 32
"""That a model writes to be timed."""


@dataclass(frozen=True)
class Speed:
    """``load_seconds`` from the start of loading until the model is ready, the libraries being in memory;
    ``peak_bytes`` of memory more at the most than the libraries alone; ``tokens_per_second`` that it writes, one text
    at a time, on ``threads`` of the CPU or on another ``device``; None of a model that writes no text."""

    load_seconds: float
    peak_bytes: int
    tokens_per_second: float | None
    threads: int
    device: str
