"""Running sums over the inputs of weights."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hubquant.errors import ImatrixError
from hubquant.imatrix.matrix import Entry


@dataclass(eq=False)
class _Total:
    """float64 [n_in] on the device of the activations."""

    sum2: torch.Tensor
    sum: torch.Tensor
    count: int = 0


@dataclass(frozen=True, eq=False)
class _Input:
    """Sums over one input of a module; ``finite`` has one value per chunk, or one for all."""

    tensor: weakref.ref[torch.Tensor]
    version: int
    sum2: torch.Tensor
    sum: torch.Tensor
    rows: int
    finite: torch.Tensor


class InputSums:
    """Adds up Σx², Σx and the number of rows for each weight, batch by batch."""

    def __init__(self) -> None:
        self._totals: dict[str, _Total] = {}
        self._last: _Input | None = None
        self._checks: list[tuple[str, torch.Tensor]] = []
        self._first_chunk = 0
        self._n_chunks = 1

    def begin(self, first_chunk: int, n_chunks: int) -> None:
        """Start a batch of ``n_chunks`` chunks."""
        self._first_chunk, self._n_chunks = first_chunk, n_chunks
        self._last = None
        self._checks = []

    def add(self, weight: str, x: torch.Tensor) -> None:
        """Add the rows of ``x`` [..., n_in]."""
        sums = self._sums_of(x)
        self._checks.append((weight, sums.finite))
        total = self._totals.get(weight)
        if total is None:
            total = self._totals[weight] = _Total(torch.zeros_like(sums.sum2), torch.zeros_like(sums.sum))
        total.sum2 = total.sum2.to(sums.sum2.device) + sums.sum2  # what was restored is not on the device yet
        total.sum = total.sum.to(sums.sum.device) + sums.sum
        total.count += sums.rows

    def check_finite(self) -> None:
        """Raise ``ImatrixError`` when an input of this batch was not finite; the first one is named."""
        if not self._checks:
            return
        device = self._checks[0][1].device
        if bool(torch.stack([finite.all().to(device) for _, finite in self._checks]).all()):  # one wait for all
            return
        weight, finite = next(check for check in self._checks if not bool(check[1].all()))
        bad = (~finite).nonzero().flatten().tolist()
        chunk = f"chunk {self._first_chunk + bad[0] + 1}" if len(finite) == self._n_chunks else "a chunk"
        raise ImatrixError(
            f"the input of {weight} is not finite in {chunk}",
            why="an activation is NaN, infinite or too large to be squared",
            hint="run in float32, on the CPU for instance; if it stays, the model's weights are broken",
        )

    def entries(self) -> dict[str, Entry]:
        return {
            name: Entry(total.sum2.cpu()[None], torch.tensor([total.count]), total.sum.cpu()[None])
            for name, total in self._totals.items()
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The whole state, by names that ``restore`` understands."""
        state: dict[str, torch.Tensor] = {}
        for name, total in self._totals.items():
            state |= {f"sum2:{name}": total.sum2.cpu(), f"sum:{name}": total.sum.cpu()}
            state[f"count:{name}"] = torch.tensor(total.count)
        return state

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        for key, count in state.items():
            kind, _, name = key.partition(":")
            if kind == "count":
                self._totals[name] = _Total(state[f"sum2:{name}"], state[f"sum:{name}"], int(count))

    def _sums_of(self, x: torch.Tensor) -> _Input:
        """q, k and v, or gate and up, are called with one tensor: it is summed once."""
        last = self._last
        if last is not None and last.tensor() is x and last.version == x._version:
            return last
        rows = x.numel() // x.shape[-1]
        per_chunk = self._n_chunks if rows % self._n_chunks == 0 else 1
        sum2, sum_ = [], []
        for block in x.reshape(per_chunk, -1, x.shape[-1]):
            values = block.float()
            sum_.append(values.sum(0))
            sum2.append(values.square().sum(0))
        blocks = torch.stack(sum2)
        self._last = _Input(
            weakref.ref(x),
            x._version,
            blocks.double().sum(0),
            torch.stack(sum_).double().sum(0),
            rows,
            blocks.isfinite().all(-1),
        )
        return self._last
