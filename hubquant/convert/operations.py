"""What happens to tensors between a checkpoint and a GGUF file, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

Dimensions = Mapping[str, int]


class Operation(Protocol):
    """``inverse(forward(tensors))`` are the ``tensors`` again, bit for bit unless an operation says otherwise.

    Both keep the dtype, unless it becomes float32, and work on meta tensors too: that is how the shapes in a checkpoint
    are known.
    """

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """From the checkpoint's tensors towards the file's. Shapes are those that the operation's class states."""

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """From the file's tensors towards the checkpoint's."""


OperationFor = Callable[[Dimensions], Operation]
"""An architecture's table names operations before the model's dimensions are known."""


@dataclass(frozen=True)
class Inverse:
    """``operation`` the other way round."""

    operation: Operation

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return self.operation.inverse(tensors)

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return self.operation.forward(tensors)


class Each:
    """An operation on every tensor by itself: ``there`` on the way to the file, ``back`` from it."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def back(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [self.there(x) for x in tensors]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [self.back(x) for x in tensors]


@dataclass(frozen=True)
class Stack:
    """Tensors of equal shape [...], such as those of each expert, become one with a new ``axis``: [experts, ...]."""

    axis: int = 0

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        return [torch.stack(list(tensors), self.axis)]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        (stack,) = tensors
        return stack.unbind(self.axis)


@dataclass(frozen=True)
class Split:
    """One tensor [..., sum(sizes), ...] becomes several: parts of ``sizes`` along ``axis``."""

    sizes: tuple[int, ...]
    axis: int = 0

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        (whole,) = tensors
        return whole.split_with_sizes(list(self.sizes), dim=self.axis)

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        return [torch.cat(list(tensors), dim=self.axis)]


@dataclass(frozen=True)
class ToFloat(Each):
    """Whole numbers as float32, which holds them up to 2^24."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x


@dataclass(frozen=True)
class ToBytes(Each):
    """Whole numbers [..., n] as the bytes of int32, uint8 [..., 4 * n]."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return x.to(torch.int32).view(torch.uint8)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return x.contiguous().view(torch.int32)


@dataclass(frozen=True)
class Transpose(Each):
    """[..., m, n] becomes [..., n, m], as between ``Conv1D`` and ``nn.Linear``; a bias [n] stays as it is."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.dim() == 1 else x.transpose(-1, -2)

    back = there


@dataclass(frozen=True)
class AddOne(Each):
    """A norm's weight as the factor that it stands for, in float32; back, the last bits of small float32 are lost.

    A ``part`` of one is added where the factor of a new model is that.
    """

    part: float = 1.0

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() + self.part

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.part


@dataclass(frozen=True)
class NegativeExp(Each):
    """-exp(x) in float32, for the decay that state-space models store as a logarithm; back, x is exact up to rounding.

    Both go through float64. The step is about 6e-8 of the result, so that float32 near 0 loses its last bits; values
    that were BF16 or F16 come back within half a step of theirs.
    """

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return -x.double().exp().float()

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return (-x.double()).log().float()


@dataclass(frozen=True)
class Softplus(Each):
    """log(1 + exp(x)) in float32; back, x is exact up to rounding."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.softplus(x.float())

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().expm1().log().float()


@dataclass(frozen=True)
class Scale(Each):
    """x [n, …] with rows times ``factors``, float32 unless all are 1; each of several is for as many rows as ``rows``
    says, which are n together.

    Back, x is exact up to rounding.
    """

    factors: tuple[float, ...]
    rows: tuple[int, ...] = ()

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return self._times(x, self.factors)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return self._times(x, tuple(1 / factor for factor in self.factors))

    def _times(self, x: torch.Tensor, factors: tuple[float, ...]) -> torch.Tensor:
        import torch

        if all(factor == 1 for factor in factors):
            return x
        if len(factors) == 1:
            return x.float() * factors[0]
        parts = x.float().split_with_sizes(list(self.rows))
        return torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)])


@dataclass(frozen=True)
class Fork:
    """One tensor [...] becomes several: a copy through each of ``ways``; back, the first way is taken."""

    ways: tuple[Each, ...]

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        (x,) = tensors
        return [way.there(x) for way in self.ways]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [self.ways[0].back(tensors[0])]


@dataclass(frozen=True)
class Beside:
    """As many tensors as ``ways``, each of which goes through its own."""

    ways: tuple[Each, ...]

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [way.there(x) for way, x in zip(self.ways, tensors, strict=True)]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [way.back(x) for way, x in zip(self.ways, tensors, strict=True)]


@dataclass(frozen=True)
class PadRows(Each):
    """x [source, …] becomes [target, …]: the rows that are added repeat the first. Back, they are dropped."""

    source: int
    target: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return (
            x if self.source == self.target else torch.cat([x, x[:1].expand(self.target - self.source, *x.shape[1:])])
        )

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x[: self.source]


@dataclass(frozen=True)
class Move(Each):
    """The axis ``source`` of x becomes its axis ``target``."""

    source: int
    target: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(self.source, self.target)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.movedim(self.target, self.source)


@dataclass(frozen=True)
class FirstLast(Each):
    """x [n, …]: the first row goes behind all others."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(-1, 0)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(1, 0)


@dataclass(frozen=True)
class WithoutFirst(Each):
    """x [n + 1, …] becomes [n, …]: the first row is left out. Back, it is zeros."""

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x[1:]

    def back(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([torch.zeros_like(x[:1]), x])


@dataclass(frozen=True)
class Take(Each):
    """The row of number ``row`` [...] of ``rows`` [rows, ...]. Back, every row is that one."""

    row: int
    rows: int

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x[self.row]

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(self.rows, *x.shape)


@dataclass(frozen=True)
class Reshape(Each):
    """The same numbers in the same order, of shape ``target`` instead of ``source``."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    def there(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.target)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.source)


def split(*sizes: str, axis: int = 0) -> OperationFor:
    """``sizes`` are names of dimensions."""
    return lambda dimensions: Split(tuple(dimensions[size] for size in sizes), axis)


def reshape(source: tuple[str, ...], target: tuple[str, ...]) -> OperationFor:
    """Both shapes are names of dimensions, where "one" is 1."""

    def operation(dimensions: Dimensions) -> Operation:
        sizes = {**dimensions, "one": 1}
        return Reshape(tuple(sizes[size] for size in source), tuple(sizes[size] for size in target))

    return operation


def always(operation: Operation) -> OperationFor:
    """An operation that depends on no dimension."""
    return lambda _: operation
