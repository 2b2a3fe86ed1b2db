"""Sums of which second moments are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hubquant.devices import where_float64_is

HELD_OUT_EVERY = 8
"""Of so many chunks the last one tells how good is what was made of the others."""


def is_held_out(number: int, n_chunks: int) -> bool:
    """Whether a chunk of so many only measures: of fewer than ``HELD_OUT_EVERY`` the last one does."""
    return number % HELD_OUT_EVERY == min(HELD_OUT_EVERY, n_chunks) - 1


@dataclass(eq=False)
class MomentSum:
    """Σ x xᵀ, float32 [n_mat, n_in, n_in], and the rows that each matrix saw, [n_mat]."""

    sum: Tensor
    counts: Tensor

    @classmethod
    def zeros(cls, n_mat: int, x: Tensor) -> MomentSum:
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

    def moment(self, index: int) -> Tensor:
        """float32 [n_in, n_in], where the model runs if that has float64. That of an expert that saw few rows is drawn
        towards that of all experts, which counts as much as one row for each column."""
        total, count = self.sum[index], float(self.counts[index])
        if len(self.counts) > 1:
            total, count = total + len(total) * self._pooled, count + len(total)
        return where_float64_is(total / max(count, 1))
