"""Operations that put the rows or columns of heads in another order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.convert.operations import Each, OperationFor, Split

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class InterleaveHalves(Each):
    """Rows of each head from rotate-half order (0, d/2, 1, d/2 + 1, …) to pairs that lie together.

    transformers rotates row i with row i + d/2; llama.cpp's NORM rope, which its ``llama`` architecture has, rotates
    row 2i with row 2i + 1. x is [heads * d, …]: a weight or a bias.
    """

    heads: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.heads, -1, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class HalvesOfPairs(Each):
    """The first ``rotated`` rows of each head from pairs that lie together to rotate-half order.

    x is [heads * d, …].
    """

    heads: int
    rotated: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return self._reordered(x, InterleaveHalves(self.heads).back)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return self._reordered(x, InterleaveHalves(self.heads).there)

    def _reordered(self, x: torch.Tensor, order: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        import torch

        heads = x.reshape(self.heads, -1, *x.shape[1:])
        turned, still = heads[:, : self.rotated], heads[:, self.rotated :]
        return torch.cat([order(turned.flatten(0, 1)).reshape(turned.shape), still], dim=1).reshape(x.shape)


@dataclass(frozen=True)
class PairsByAxis(Each):
    """Rows of each head from pairs that are turned by a patch's column and by its row in turn to all of the first, then
    all of the others.

    x is [heads * 4 * n, …], where a pair lies together.
    """

    heads: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.heads, -1, 2, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.heads, 2, -1, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class SwapHalves(Each):
    """The first and the second half of the rows change places. x is [2 * n, …]."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1, *x.shape[1:]).flip(0).reshape(x.shape)

    back = there


@dataclass(frozen=True)
class Deinterleave:
    """One tensor [..., 2 * n, ...] becomes two [..., n, ...]: what stands at even and at odd places along ``axis``."""

    axis: int

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        (both,) = tensors
        shape = both.shape
        pairs = both.reshape(*shape[: self.axis], -1, 2, *shape[self.axis + 1 :])
        return list(pairs.unbind(self.axis + 1))

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        return [torch.stack(list(tensors), dim=self.axis + 1).flatten(self.axis, self.axis + 1)]


@dataclass(frozen=True)
class UngroupHeads(Each):
    """Rows of queries, keys and values from one group after the other to all queries, all keys, all values.

    A group has ``queries`` heads of queries, one of keys and one of values. x is [groups * (queries + 2) * d, …].
    """

    groups: int
    queries: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        grouped = x.reshape(self.groups, self.queries + 2, -1, *x.shape[1:])
        parts = grouped.split_with_sizes([self.queries, 1, 1], dim=1)
        return torch.cat([part.reshape(-1, *x.shape[1:]) for part in parts])

    def back(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        heads = x.reshape(self.groups * (self.queries + 2), -1, *x.shape[1:])
        parts = heads.split_with_sizes([self.groups * self.queries, self.groups, self.groups])
        grouped = [part.reshape(self.groups, -1, *heads.shape[1:]) for part in parts]
        return torch.cat(grouped, dim=1).reshape(x.shape)


@dataclass(frozen=True)
class Ungroup(Each):
    """Rows from parts of ``sizes`` in one group after the other to all first parts, all second parts, …

    x is [groups * sum(sizes), …].
    """

    groups: int
    sizes: tuple[int, ...]

    def there(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        parts = x.reshape(self.groups, -1, *x.shape[1:]).split_with_sizes(list(self.sizes), dim=1)
        return torch.cat([part.reshape(-1, *x.shape[1:]) for part in parts])

    def back(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        parts = x.split_with_sizes([self.groups * size for size in self.sizes])
        grouped = [part.reshape(self.groups, -1, *x.shape[1:]) for part in parts]
        return torch.cat(grouped, dim=1).reshape(x.shape)


@dataclass(frozen=True)
class TileHeads(Each):
    """Heads along ``axis``, from row ``start`` on: from group by group to the first of every group, the second, …

    ``axis`` has ``start`` + ``heads`` * d places; the shape stays.
    """

    groups: int
    heads: int
    axis: int = 0
    start: int = 0

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return self._swapped(x, self.groups, self.heads // self.groups)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return self._swapped(x, self.heads // self.groups, self.groups)

    def _swapped(self, x: torch.Tensor, outer: int, inner: int) -> torch.Tensor:
        import torch

        kept, moved = x.split_with_sizes([self.start, x.shape[self.axis] - self.start], dim=self.axis)
        before, after = moved.shape[: self.axis], moved.shape[self.axis + 1 :]
        size = moved.shape[self.axis] // self.heads
        heads = moved.reshape(*before, outer, inner, size, *after).transpose(self.axis, self.axis + 1)
        return torch.cat([kept, heads.reshape(moved.shape)], dim=self.axis)


def interleave_halves(heads: str) -> OperationFor:
    """``heads`` is the name of the dimension that counts them."""
    return lambda dimensions: InterleaveHalves(dimensions[heads])


def halves_of_pairs(heads: str, rotated: str) -> OperationFor:
    """Names of the dimensions that count the heads and the rows that are rotated in each."""
    return lambda dimensions: HalvesOfPairs(dimensions[heads], dimensions[rotated])


def ungroup(groups: str, *sizes: str) -> OperationFor:
    """All are names of dimensions."""
    return lambda dimensions: Ungroup(dimensions[groups], tuple(dimensions[size] for size in sizes))


def tile_heads(axis: int = 0, start: str | None = None) -> OperationFor:
    """Value heads that share a key head; ``start`` is the name of a dimension."""
    return lambda dimensions: TileHeads(
        dimensions["n_key"], dimensions["n_value"], axis, dimensions[start] if start else 0
    )


def ungroup_heads(groups: str, queries: str) -> OperationFor:
    """Names of the dimensions that count the groups and the heads of queries in one of them."""
    return lambda dimensions: UngroupHeads(dimensions[groups], dimensions[queries])


MOVES_ROWS = (HalvesOfPairs, InterleaveHalves, SwapHalves, Ungroup, UngroupHeads)
"""What puts the rows of a matrix in another order, each as it is."""
ALONG_AN_AXIS = (Deinterleave, Split, TileHeads)
"""What does so along the ``axis`` that it has."""
