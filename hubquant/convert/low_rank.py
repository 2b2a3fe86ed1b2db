"""A change of a matrix as two thin ones, carried through what a conversion does to the matrix itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.convert.head_order import ALONG_AN_AXIS, MOVES_ROWS
from hubquant.convert.operations import Each, Operation, PadRows, Scale, Stack, Transpose

if TYPE_CHECKING:
    import torch

_OF_ROWS = (*MOVES_ROWS, PadRows, Scale)


class NotLowRankError(Exception):
    """An operation after which the change is no product of two such matrices."""


@dataclass(frozen=True)
class LowRank:
    """``b`` [..., rows, r] times ``a`` [..., r, columns], which is added to a weight [..., rows, columns]."""

    a: torch.Tensor
    b: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return (*self.b.shape[:-1], self.a.shape[-1])

    @property
    def rank(self) -> int:
        return int(self.a.shape[-2])

    def transposed(self) -> LowRank:
        return LowRank(self.b.transpose(-1, -2), self.a.transpose(-1, -2))

    def of_rank(self, rank: int) -> LowRank:
        """The same change with zeros in both."""
        from torch.nn.functional import pad

        more = rank - self.rank
        return LowRank(pad(self.a, (0, 0, 0, more)), pad(self.b, (0, more))) if more else self


def carried(operation: Operation, changes: Sequence[LowRank]) -> list[LowRank]:
    """What ``operation`` makes of weights that are changed so, of the same rank all: those that move rows do it to
    ``b``, those that move columns to ``a``.

    Raises ``NotLowRankError`` for operations that mix both, and for those that are not linear.
    """
    import torch

    if isinstance(operation, Stack):
        return [LowRank(torch.stack([each.a for each in changes]), torch.stack([each.b for each in changes]))]
    (change,) = changes
    n_dims = len(change.shape)
    if isinstance(operation, Transpose):
        return [change.transposed()]
    if isinstance(operation, _OF_ROWS) and n_dims == 2:
        assert isinstance(operation, Each)
        return [LowRank(change.a, operation.there(change.b))]
    if isinstance(operation, ALONG_AN_AXIS) and operation.axis == n_dims - 1:
        return [LowRank(a, change.b) for a in operation.forward([change.a])]
    if isinstance(operation, ALONG_AN_AXIS) and operation.axis == n_dims - 2:
        return [LowRank(change.a, b) for b in operation.forward([change.b])]
    raise NotLowRankError
