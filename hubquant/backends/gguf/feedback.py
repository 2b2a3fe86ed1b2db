"""Weights rounded with error feedback, and whether that was good for what was held out."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from hubquant.engine.task import FP32_BYTES, Context

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hubquant.quants.feedback.entry import Feedback

FEEDBACK = "feedback.jsonl"
JUDGED_ROWS = 256
"""That are compared to tell which rounding is better."""
FACTOR_COPIES = 6
"""Of a moment in memory while its factor is made of it."""
_ROUNDING_BYTES = 2 << 30  # of a part of the rows of a matrix on a GPU
_KEPT_BYTES = 1 << 30
"""Of what was made of moments, beside what is in use: the last one is always kept."""


class Moments(Protocol):
    """Of the inputs of one weight."""

    @property
    def inputs(self) -> Hashable:
        """Equal for weights that have the same."""

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


@dataclass(eq=False)
class _Known:
    """Of one matrix of inputs: the moment that was held out, the damping that is best for it, and the feedback for each
    damping that a type has."""

    held_out: Tensor
    damping: float
    by_damping: dict[float, Feedback] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        return self.held_out.numel() * 4 * (1 + 2 * len(self.by_damping))


class Factors:
    """Of the moments of a block: found once for all weights that have the same inputs, and for all types.

    Threads wait for what another one finds, which has ``n_threads`` for it. Nothing depends on their order.
    """

    def __init__(self, n_threads: int) -> None:
        self._n_threads, self._lock, self._turn = n_threads, Lock(), Lock()
        self._known: OrderedDict[tuple[Hashable, int], _Known] = OrderedDict()

    def of(self, moments: Moments, matrix: int, type: str) -> tuple[Feedback, Tensor]:
        """The feedback for a type, and the moment that was held out."""
        from hubquant.quants.feedback.damping import chosen_damping, damping_for
        from hubquant.quants.feedback.entry import Feedback

        key = (moments.inputs, matrix)
        with self._lock:
            seen = None
            if key not in self._known:
                seen, held_out = _where_they_fit(*moments.of(matrix))
                self._known[key] = _Known(held_out, chosen_damping(seen, held_out))
            self._known.move_to_end(key)
            known = self._known[key]
            damping = damping_for(type, known.damping)
            if damping not in known.by_damping:
                if seen is None:
                    seen, _ = _where_they_fit(*moments.of(matrix))
                known.by_damping[damping] = Feedback.of(seen, damping, self._n_threads)
            while len(self._known) > 1 and sum(each.n_bytes for each in self._known.values()) > _KEPT_BYTES:
                self._known.popitem(last=False)
            return known.by_damping[damping], known.held_out

    def renewed(self) -> Factors:
        """For other moments, with the turns of these, which some threads may still be at."""
        found = Factors(self._n_threads)
        found._turn = self._turn
        return found

    def turn(self, device: torch.device) -> AbstractContextManager[object]:
        """While a thread works on ``device``: on a GPU one at a time does, which has its memory for itself."""
        return nullcontext() if device.type == "cpu" else self._turn


def fits(columns: int, memory_bytes: int) -> bool:
    """Whether what is made of the moments of so many columns takes at most half of a GPU's memory: the model's block
    is there too."""
    return FACTOR_COPIES * FP32_BYTES * columns**2 + _ROUNDING_BYTES <= memory_bytes // 2


def _where_they_fit(*moments: Tensor) -> tuple[Tensor, ...]:
    """Where they are, or on the CPU. Never by how much memory is free: bytes would depend on it."""
    import torch

    at = moments[0].device
    if at.type != "cuda" or fits(len(moments[0]), torch.cuda.get_device_properties(at).total_memory):
        return moments
    return tuple(each.cpu() for each in moments)


def rounded_with_feedback(
    name: str,
    number: int,
    x: Tensor,
    type: str,
    importance: Tensor | None,
    moments: Moments,
    factors: Factors,
    journal: Journal,
    threads: int,
) -> Tensor:
    """uint8 [rows, row_bytes] of ``x`` [rows, n], a matrix of the weight ``name``, as :func:`hubquant.quants.quantize`
    gives it: with error feedback where the outputs on held-out text come nearer to the source's so.

    Where the moments are, if the type can be rounded there; the bytes are on the CPU."""
    from hubquant.quants import dequantize, quantize
    from hubquant.quants.feedback.entry import weighted_errors

    feedback, held_out = factors.of(moments, number, type)
    device = feedback.device_for(type)
    with factors.turn(device):
        x = x.to(device)
        nearest = quantize(x, type, importance, "best", threads)
        data = feedback.quantize(x, type, threads)
        found = [dequantize(_some(each, JUDGED_ROWS), type, x.shape[1]) for each in (nearest, data)]
        rounded = Rounded(name, number, type, *weighted_errors(_some(x, JUDGED_ROWS), found, held_out))
        chosen = (data if rounded.is_kept else nearest).cpu()
    journal.add(rounded)
    return chosen


def _some(rows: Tensor, n: int) -> Tensor:
    """``n`` of them, or all, from everywhere."""
    return rows[:: max(1, len(rows) // n)][:n].contiguous()
