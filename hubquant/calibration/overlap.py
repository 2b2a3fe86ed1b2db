"""How much of an evaluation text stands in the calibration text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHORTEST_LINE = 60  # characters; shorter lines recur in unrelated texts


@dataclass(frozen=True)
class Overlap:
    """``lines``: long lines of the evaluation text; ``shared``: those that the calibration text has too."""

    lines: int
    shared: int
    example: str | None

    @property
    def share(self) -> float:
        return self.shared / self.lines if self.lines else 0.0


def overlap(calibration: Iterable[str], evaluation: str) -> Overlap:
    """Compare texts line by line, with runs of spaces made one. Only the evaluation text is held in memory."""
    lines = _long_lines(evaluation)
    wanted, found = set(lines), set[str]()
    for text in calibration:
        found.update(line for line in _long_lines(text) if line in wanted)
    shared = [line for line in lines if line in found]
    return Overlap(len(lines), len(shared), shared[0] if shared else None)


def _long_lines(text: str) -> list[str]:
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if len(line) >= SHORTEST_LINE]
