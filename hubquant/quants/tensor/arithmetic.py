"""Rounding and sums that the searches share. The last dimension holds the weights that have one scale."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

LARGEST = 3e38
LARGEST_HALF = 65504.0


def total(terms: Tensor) -> Tensor:
    """The sum over the last dimension; on the CPU from left to right, as the kernels in :mod:`cpu` add, so that both
    decide alike.
    """
    return reduce(add, terms.unbind(-1)) if terms.device.type == "cpu" else terms.sum(-1)


def rounded(value: Tensor, low: float, high: float) -> Tensor:
    """The nearest whole number in low … high, half to even."""
    return torch.round(value).clamp(low, high)


def reciprocal(value: Tensor) -> Tensor:
    """1 / value, 0 for 0."""
    return torch.where(value != 0, 1 / value, 0)


def to_half(value: Tensor) -> Tensor:
    """The nearest finite number that half precision holds; 0 for NaN.

    Never called in what :func:`fusion.fused` compiles: there the compiler would drop the rounding.
    """
    return value.nan_to_num(0.0).clamp(-LARGEST_HALF, LARGEST_HALF).half().float()


def square_root(value: Tensor) -> Tensor:
    """√value to the last bit; on the CPU torch's own is not."""
    return torch.sqrt(value.double()).float() if value.device.type == "cpu" else torch.sqrt(value)


def growth(share: float, x: Tensor, w: Tensor, values: Tensor) -> Tensor:
    """What to multiply the ``values`` x̂ [blocks, …] of each block by to go ``share`` of the way to Σ w·x·x̂ = Σ w·x²,
    see :func:`cpu.best.refine.growth`.
    """
    excess = total((w * x * x).flatten(1)) / total((w * x * values).flatten(1)) - 1
    return torch.where((excess > 0) & (excess < 1), 1 + share * excess, 1)


def extreme(x: Tensor) -> Tensor:
    """The first value of largest magnitude along the last dimension."""
    return x.gather(-1, x.abs().argmax(-1, keepdim=True)).squeeze(-1)


def keep_better(better: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Each of ``new`` where it is ``better``, else each of ``old``; further dimensions are broadcast."""
    return tuple(
        torch.where(better.view(better.shape + (1,) * (a.dim() - better.dim())), a, b)
        for a, b in zip(new, old, strict=True)
    )


def ramp(first: float, delta: float, count: int) -> tuple[float, ...]:
    """first + delta · k for k < ``count``, in single precision as the kernels in :mod:`cpu` count."""
    return tuple((np.float32(first) + np.float32(delta) * np.arange(count, dtype=np.float32)).tolist())


def spread(reach: float, count: int) -> tuple[float, ...]:
    """``count`` numbers −reach … reach, in single precision."""
    steps = np.arange(0, 2 * count, 2, dtype=np.float32) / np.float32(count - 1)
    return tuple((np.float32(reach) * (steps - np.float32(1))).tolist())
