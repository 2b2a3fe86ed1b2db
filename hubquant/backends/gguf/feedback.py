"""Weights rounded with error feedback, and whether that was good for what was held out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from hubquant.engine.task import Context

if TYPE_CHECKING:
    from torch import Tensor

FEEDBACK = "feedback.jsonl"
DAMPINGS = (0.01, 0.03, 0.1, 0.3)
"""Shares of the mean diagonal, of which the one is taken that is best for some rows on what was held out."""
SAMPLED_ROWS = 32
TRIED_COLUMNS = 4096
"""Above, one factor of the moment takes minutes, and the usual damping is taken."""
JUDGED_ROWS = 512
"""That are compared to tell which rounding is better."""


class Moments(Protocol):
    """Of the inputs of one weight."""

    @property
    def n_matrices(self) -> int: ...

    def of(self, matrix: int) -> tuple[Tensor, Tensor]:
        """E[x xᵀ] of one of its matrices, float32 [n, n]: of the text that it is rounded by, and of what was held
        out."""


class MomentsSource(Protocol):
    """Where second moments come from."""

    @property
    def made_from(self) -> Mapping[str, Any]:
        """Everything they depend on beside the weights, as plain data."""

    @property
    def weights(self) -> frozenset[str]:
        """Those that there may be some of, by their names in the whole model."""

    @property
    def ram_bytes(self) -> int:
        """That gathering them takes."""

    def by_block(
        self, weights: frozenset[str], folder: Path, context: Context, n_threads: int
    ) -> Iterator[Mapping[str, Moments]]:
        """Those of ``weights``, some at a time, computed in ``n_threads``; ``folder`` is for what does not fit in
        memory."""


@dataclass(frozen=True)
class Rounded:
    """What became of a ``matrix`` of a tensor, by its number: the share of the power of its outputs on held-out text
    that is wrong, when each weight is rounded by itself and with feedback. The better one is kept."""

    name: str
    matrix: int
    type: str
    nearest: float
    feedback: float

    @property
    def is_kept(self) -> bool:
        """Whether the feedback was better."""
        return self.feedback < self.nearest


class Journal:
    """What was :class:`Rounded` in each of the files that are written at once, kept beside them."""

    def __init__(self, folders: Mapping[Path, Mapping[str, str]]) -> None:
        """``folders`` are those of the files, with the types of their tensors."""
        self._folders, self._lock = folders, Lock()

    def add(self, rounded: Rounded) -> None:
        line = json.dumps(asdict(rounded)) + "\n"
        with self._lock:
            for folder, types in self._folders.items():
                if types.get(rounded.name) == rounded.type:
                    with (folder / FEEDBACK).open("a", encoding="utf-8") as file:
                        file.write(line)


def read_rounded(folder: Path) -> list[Rounded]:
    """Those of one file; of a tensor that a killed run rounded before, what was written last."""
    path = folder / FEEDBACK
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with suppress(ValueError, TypeError):  # of a process that was killed while it wrote
            found.append(Rounded(**json.loads(line)))
    return list({(each.name, each.matrix): each for each in found}.values())


def rounded_with_feedback(
    name: str,
    number: int,
    x: Tensor,
    type: str,
    importance: Tensor | None,
    moments: Moments,
    journal: Journal,
    threads: int,
) -> Tensor:
    """uint8 [rows, row_bytes] of ``x`` [rows, n], a matrix of the weight ``name``, as :func:`hubquant.quants.quantize`
    gives it: with error feedback where the outputs on held-out text come nearer to the source's so."""
    from hubquant.quants import dequantize, quantize, quantize_with_feedback, weighted_error
    from hubquant.quants.feedback.factor import DAMPING

    seen, held_out = moments.of(number)

    def error(rows: Tensor, data: Tensor) -> float:
        return weighted_error(rows, dequantize(data, type, x.shape[1]), held_out)

    nearest = quantize(x, type, importance, "best", threads)
    damping, sample = DAMPING, _some(x, SAMPLED_ROWS)
    if x.shape[1] <= TRIED_COLUMNS:
        tried = {each: error(sample, quantize_with_feedback(sample, type, seen, each, threads=1)) for each in DAMPINGS}
        damping = min(DAMPINGS, key=lambda each: tried[each])
    data = quantize_with_feedback(x, type, seen, damping, threads)
    judged = _some(x, JUDGED_ROWS)
    rounded = Rounded(name, number, type, *(error(judged, _some(each, JUDGED_ROWS)) for each in (nearest, data)))
    journal.add(rounded)
    return data if rounded.is_kept else nearest


def _some(rows: Tensor, n: int) -> Tensor:
    """``n`` of them, or all, from everywhere."""
    return rows[:: max(1, len(rows) // n)][:n].contiguous()
