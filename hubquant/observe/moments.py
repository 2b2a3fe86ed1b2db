"""Second moments E[x xᵀ] of the inputs of weights, block after block of a model that streams, then of its output layer.

They are as large as the weights, and are gathered for one block at a time and dropped after their use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubquant.calibration.chunks import Chunks
from hubquant.devices import torch_threads
from hubquant.models.taps.tap import Tap, attached, find
from hubquant.observe.collection import CollectionRequest, keys_of
from hubquant.observe.collector import run_model

if TYPE_CHECKING:
    from hubquant.models.stream import BlockStream

HELD_OUT_EVERY = 8
"""Of so many chunks the last one tells how good is what was made of the others."""
TOKEN_EMBEDDING = "token_embd.weight"
LOOKED_UP = 0.1
"""What an error in the row of a token costs where it is looked up, in all directions the same: as a share of the mean
of what it costs in the output layer."""


@dataclass(eq=False)
class _Total:
    """Σ x xᵀ, float32 [n_mat, n_in, n_in], and the rows that each matrix saw, [n_mat]."""

    sum: Tensor
    counts: Tensor

    @classmethod
    def zeros(cls, n_mat: int, x: Tensor) -> _Total:
        n_in = x.shape[-1]
        return cls(torch.zeros(n_mat, n_in, n_in, device=x.device), torch.zeros(n_mat))

    def add(self, index: int, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        self.sum[index].addmm_(rows.T, rows)
        self.counts[index] += len(rows)

    @cached_property
    def _pooled(self) -> Tensor:
        """That of all experts, once all is seen."""
        return self.sum.sum(0) / self.counts.sum().clamp(min=1)

    def moment(self, index: int, order: Tensor | None) -> Tensor:
        """float32 [n_in, n_in] on the CPU. That of an expert that saw few rows is drawn towards that of all experts,
        which counts as much as one row for each column."""
        total, count = self.sum[index], float(self.counts[index])
        if len(self.counts) > 1:
            total, count = total + len(total) * self._pooled, count + len(total)
        found = (total / max(count, 1)).cpu()
        return found if order is None else found[order][:, order]


@dataclass(frozen=True, eq=False)
class WeightMoments:
    """Of the inputs of one weight: what it is rounded by, and of text that was held out what tells how good that is.

    ``looked_up`` is added to the diagonal, as a share of its mean, for rows that are also given as they are.
    """

    seen: _Total
    held_out: _Total
    order: Tensor | None
    looked_up: float

    @property
    def n_matrices(self) -> int:
        return len(self.seen.counts)

    def of(self, matrix: int) -> tuple[Tensor, Tensor]:
        """Both moments of one of its matrices, float32 [n_in, n_in]."""
        return self._moment(self.seen, matrix), self._moment(self.held_out, matrix)

    def _moment(self, total: _Total, matrix: int) -> Tensor:
        found = total.moment(matrix, self.order)
        found.diagonal().add_(self.looked_up * found.diagonal().mean())
        return found


@dataclass(eq=False)
class _Gathered:
    """Of one block. ``held_out`` tells which of both sums a chunk is for, and ``left_out`` whether one of its inputs
    was not finite."""

    totals: dict[bool, dict[str, _Total]] = field(default_factory=lambda: {False: {}, True: {}})
    held_out: bool = False
    left_out: bool = False

    def see(self, key: str, x: Tensor) -> None:
        self.see_expert(key, 0, 1, x)

    def see_expert(self, key: str, expert: int, n_experts: int, x: Tensor) -> None:
        self.left_out = self.left_out or not bool(x.isfinite().all())
        if not self.left_out:
            totals = self.totals[self.held_out]
            if key not in totals:
                totals[key] = _Total.zeros(n_experts, x)
            totals[key].add(expert, x)


def moments_by_block(
    stream: BlockStream,
    chunks: Chunks,
    taps: Mapping[str, Tap],
    n_threads: int,
) -> Iterator[Mapping[str, WeightMoments]]:
    """For each block those of the weights that ``taps`` names and that are in it, in the end those of the output layer,
    which is not loaded for that. torch computes them in ``n_threads``: elsewhere it may have fewer meanwhile.

    A chunk with an input that is not finite is left out from there on. At least two chunks are needed.
    """
    keys = keys_of(taps)
    output = any(find(stream.model, tap.module) is stream.weights.output for tap in taps.values())
    with torch.no_grad(), stream.pausing():
        stream.weights.load_rest(chunks.ids)

        def forward(ids: Tensor) -> Any:
            return run_model(stream.model, ids, CollectionRequest(process_output=output))

        passes = [stream.start(ids[None], forward) for ids in chunks.ids]
        left_out = [False] * len(passes)

        def step() -> Mapping[str, WeightMoments]:
            gathered = _Gathered()
            attaching = attached(stream.model, {key: taps[key] for key in keys.values()}, gathered)
            with attaching, torch_threads(n_threads):
                for number, each in enumerate(passes):
                    gathered.held_out, gathered.left_out = _is_held_out(number, len(passes)), left_out[number]
                    each.step()
                    left_out[number] = gathered.left_out
            seen, held_out = gathered.totals[False], gathered.totals[True]
            return {
                weight: WeightMoments(
                    seen[key], held_out[key], taps[weight].order(), LOOKED_UP if weight == TOKEN_EMBEDDING else 0.0
                )
                for weight, key in keys.items()
                if key in seen and key in held_out
            }

        for _ in stream.loaded():
            yield step()
        if output:
            with stream.stopping_at_output():
                yield step()
        for each in passes:
            each.drop()


def _is_held_out(number: int, n_chunks: int) -> bool:
    """Whether a chunk of so many only measures: of fewer than ``HELD_OUT_EVERY`` the last one does."""
    return number % HELD_OUT_EVERY == min(HELD_OUT_EVERY, n_chunks) - 1
