"""Running sums over the inputs of weights."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from hubquant.devices import in_float64

CACHED = 1 << 18  # squares at a time: 1 MB


@dataclass(eq=False)
class Sums:
    """Σx² and Σx, float64 [n_mat, n_in] on the device of the activations if that has float64, and the rows of each
    matrix, [n_mat]."""

    sum2: torch.Tensor
    sum: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def zeros(cls, n_mat: int, n_in: int, device: torch.device) -> Self:
        zeros = in_float64(torch.zeros(n_mat, n_in, device=device))
        return cls(zeros, zeros.clone(), torch.zeros(n_mat, dtype=torch.int64))

    def add(self, other: Sums) -> None:
        self.sum2 = self.sum2.to(other.sum2.device) + other.sum2  # what was restored is not on the device yet
        self.sum = self.sum.to(other.sum.device) + other.sum
        self.counts = self.counts + other.counts


@dataclass(frozen=True, eq=False)
class _Input:
    """Sums over one input of a module."""

    tensor: weakref.ref[torch.Tensor]
    version: int
    sums: Sums


def sum_of_squares(blocks: torch.Tensor) -> torch.Tensor:
    """Σx² over the rows of each block, float32 [blocks, n], from [blocks, rows, n] of any float type.

    On a CPU the squares of some rows at a time stay in its cache. On a GPU one kernel squares and sums without writing
    the squares; its root costs the last bit of float32.
    """
    if blocks.device.type == "cpu":
        step = max(1, CACHED // blocks.shape[-1])
        return torch.stack([_in_parts(block.split(step)) for block in blocks])
    norms: torch.Tensor = torch.linalg.vector_norm(blocks, dim=1, dtype=torch.float32)
    return norms.square()


def _in_parts(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([part.float().square().sum(0) for part in parts]).sum(0)


class InputSums:
    """The observer that adds up what flows into weights, and its squares.

    What is seen counts as so many times as ``weight`` says; counts are float64 where that was not 1.
    """

    kind = "sums"

    def __init__(self) -> None:
        self.weight = 1.0
        self.totals: dict[str, Sums] = {}
        self._batch: dict[str, Sums] = {}
        self._last: _Input | None = None
        self._n_chunks = 1

    def begin(self, n_chunks: int) -> None:
        self._n_chunks = n_chunks
        self._last = None
        self._batch = {}

    def see(self, key: str, x: torch.Tensor) -> None:
        sums = self._sums_of(x)
        if self.weight != 1:
            sums = Sums(sums.sum2 * self.weight, sums.sum * self.weight, sums.counts.double() * self.weight)
        self.add(key, sums)

    def add(self, key: str, sums: Sums) -> None:
        """What was summed elsewhere."""
        found = self._batch.get(key)
        if found is None:
            self._batch[key] = Sums(sums.sum2, sums.sum, sums.counts)
        else:
            found.add(sums)

    def see_expert(self, key: str, expert: int, n_experts: int, x: torch.Tensor) -> None:
        sums = self._batch.get(key)
        if sums is None:
            sums = self._batch[key] = Sums.zeros(n_experts, x.shape[-1], x.device)
        sums.sum2[expert] += in_float64(sum_of_squares(x[None])[0])
        sums.sum[expert] += in_float64(x.sum(0, dtype=torch.float32))
        sums.counts[expert] += len(x)

    def not_finite(self) -> str | None:
        """The first key whose input in this batch was NaN, infinite or too large to be squared, None if there is none.

        One wait for the device, however many keys there are.
        """
        if not self._batch:
            return None
        device = next(iter(self._batch.values())).sum2.device
        finite = torch.stack([sums.sum2.isfinite().all().to(device) for sums in self._batch.values()])
        bad = (~finite).nonzero().flatten().tolist()
        return list(self._batch)[bad[0]] if bad else None

    def commit(self) -> None:
        for key, sums in self._batch.items():
            if key in self.totals:
                self.totals[key].add(sums)
            else:
                self.totals[key] = sums
        self.begin(1)

    def state(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = {}
        for key, sums in self.totals.items():
            # Weights with one input may have one tensor in common.
            state |= {
                f"{kind}:{key}": x.cpu().clone()
                for kind, x in (("sum2", sums.sum2), ("sum", sums.sum), ("counts", sums.counts))
            }
        return state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, counts in state.items():
            kind, _, key = name.partition(":")
            if kind == "counts":
                self.totals[key] = Sums(state[f"sum2:{key}"], state[f"sum:{key}"], counts)

    def _sums_of(self, x: torch.Tensor) -> Sums:
        """q, k and v, or gate and up, are called with one tensor: it is summed once."""
        last, tracked = self._last, not x.is_inference()  # such tensors do not tell when they are changed
        if tracked and last is not None and last.tensor() is x and last.version == x._version:
            return last.sums
        rows = x.numel() // x.shape[-1]
        blocks = x.reshape(self._n_chunks if rows % self._n_chunks == 0 else 1, -1, x.shape[-1])
        # In float32 over one chunk, in float64 over the chunks.
        sums = Sums(
            in_float64(sum_of_squares(blocks)).sum(0)[None],
            in_float64(blocks.sum(1, dtype=torch.float32)).sum(0)[None],
            torch.tensor([rows]),
        )
        self._last = _Input(weakref.ref(x), x._version, sums) if tracked else None
        return sums
