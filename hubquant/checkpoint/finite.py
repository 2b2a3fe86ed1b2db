"""Weights that are NaN or infinite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from hubquant.checkpoint.stored import Stored


class Finite:
    """A stored tensor that is looked at when it is read."""

    def __init__(self, name: str, stored: Stored) -> None:
        self._name, self._stored = name, stored

    def __getitem__(self, all: Any) -> torch.Tensor:
        x = self._stored[all]
        check_finite(self._name, x)
        return x


def check_finite(name: str, x: torch.Tensor) -> None:
    """Raises ``CheckpointError`` with the number of weights of ``x``, of any shape, that are NaN or infinite."""
    low, high = x.aminmax()  # a NaN anywhere makes both NaN, and no mask of x's size is needed
    if not (low.isfinite() and high.isfinite()):
        bad = int((~x.isfinite()).sum())
        raise CheckpointError(
            f"tensor {name} holds {bad:,} values that are NaN or infinite",
            why="what is computed with them is no number either",
            hint="fetch the file again from where it comes from; if it is the same, its weights are broken there",
        )
