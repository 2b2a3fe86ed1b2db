"""The weight of each squared error: llama.cpp's of each type, where it has one, else the importance or 1.

Weightings have the names of those of the CPU's kernels (:mod:`cpu.vector.frame`). ``x`` [blocks, n] are the weights of
blocks, ``importance`` [blocks, n] belongs to them, ``power`` [blocks] is the mean square of the row a block lies in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.tensor.arithmetic import square_root, total


def row_power(x: Tensor) -> Tensor:
    """The mean square of each row of ``x`` [rows, n]: [rows]."""
    return total(x * x) / x.shape[1]


# ---- without importance: x -> [blocks, n] ---------------------------------------------------------------------------


def by_one(x: Tensor) -> Tensor:
    """1"""
    return torch.ones_like(x)


def by_magnitude(x: Tensor) -> Tensor:
    """|x|"""
    return x.abs()


def by_square(x: Tensor) -> Tensor:
    """x²"""
    return x * x


def by_spread(x: Tensor) -> Tensor:
    """√(mean square of 32 neighbours) + |x|"""
    groups = x.view(x.shape[0], -1, 32)
    return (square_root(total(groups * groups) / 32).unsqueeze(-1) + groups.abs()).view_as(x)


def by_power(x: Tensor) -> Tensor:
    """Mean square of the block + x²"""
    return (total(x * x) / x.shape[1]).unsqueeze(-1) + x * x


def by_block_evenly(x: Tensor) -> Tensor:
    """√(2 · mean square of the block + x²)"""
    mean = (total(x * x) / x.shape[1]).unsqueeze(-1)
    return square_root(2 * mean + x * x)


# ---- with importance: x, importance, power -> [blocks, n] -----------------------------------------------------------


def by_importance(_x: Tensor, importance: Tensor, _power: Tensor | None) -> Tensor:
    """importance"""
    return importance


def by_block(x: Tensor, importance: Tensor, _power: Tensor | None) -> Tensor:
    """importance · √(mean square of the block + x²)"""
    return importance * square_root((total(x * x) / x.shape[1]).unsqueeze(-1) + x * x)


def by_block_twice(x: Tensor, importance: Tensor, _power: Tensor | None) -> Tensor:
    """importance · √(2 · mean square of the block + x²)"""
    return importance * square_root((2 * total(x * x) / x.shape[1]).unsqueeze(-1) + x * x)


def by_row(x: Tensor, importance: Tensor, power: Tensor | None) -> Tensor:
    """importance · √(mean square of the row + x²)"""
    assert power is not None
    return importance * square_root(power.unsqueeze(-1) + x * x)
