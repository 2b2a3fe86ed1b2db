"""What happens to a tensor between a checkpoint and a GGUF file, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

Dimensions = Mapping[str, int]


class Operation(Protocol):
    """``inverse(forward(x))`` is ``x`` bit for bit; both keep the dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor: ...

    def inverse(self, x: torch.Tensor) -> torch.Tensor: ...


OperationFor = Callable[[Dimensions], Operation]
"""An architecture's table names operations before the model's dimensions are known."""


@dataclass(frozen=True)
class InterleaveHalves:
    """Rows of each head from rotate-half order (0, d/2, 1, d/2 + 1, …) to pairs that lie together.

    transformers rotates row i with row i + d/2; llama.cpp's NORM rope, which its ``llama`` architecture has, rotates
    row 2i with row 2i + 1. x is [heads * d, …]: a weight or a bias.
    """

    heads: int

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.heads, 2, -1, *x.shape[1:]).transpose(1, 2).reshape(x.shape)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(self.heads, -1, 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def interleave_halves(heads: str) -> OperationFor:
    """``heads`` is the name of the dimension that counts them."""
    return lambda dimensions: InterleaveHalves(dimensions[heads])
