"""The second moment of a layer's inputs, and its factor: how errors of columns are passed on, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.devices import torch_threads

Array = np.ndarray[Any, Any]

DAMPING = 0.03  # of the mean diagonal, added to all of it
_MOST_DAMPING = 1.0
_SOLVED = 128  # columns that are inverted at once
_PRECISE = 4096  # columns up to which the factor is found in double precision: beyond, it would take too much memory


@dataclass(frozen=True)
class Factor:
    """Of a damped moment H whose mean diagonal is 1, its columns in the order in which they are rounded.

    With H⁻¹ = Uᵀ U, U upper triangular: ``passed_on`` float32 [n, n] is U with rows divided by their diagonal; once an
    error e was made in column i, subtracting e · ``passed_on[i]`` from the columns makes those after i the best that
    they can be. ``cost`` float32 [n] = 1 / Uᵢᵢ²: tr(E H Eᵀ) is the sum of cost · e² over all errors made so.
    """

    moment: Array
    passed_on: Array
    cost: Array

    @property
    def columns(self) -> int:
        return len(self.cost)

    @property
    def importance(self) -> Tensor:
        """The damped mean square of each input, float32 [n]: never 0."""
        return torch.from_numpy(np.ascontiguousarray(self.moment.diagonal()))


def factorize(moment: Tensor, order: Tensor, damping: float) -> Factor:
    """The factor of ``moment`` [n, n] for columns in ``order`` int64 [n].

    Ten times more damping is tried as long as the moment is not positive definite, up to the mean diagonal itself.
    ValueError where that is not enough. In one thread: sums of linear algebra depend on how threads share them.
    """
    n = len(order)
    precision = torch.float64 if n <= _PRECISE else torch.float32
    with torch_threads(1):
        damped = moment.detach().cpu().to(precision)[order][:, order]
        mean = float(damped.diagonal().mean())
        damped = damped / mean if mean > 0 else torch.eye(n, dtype=precision)
        added = 0.0
        strength = damping
        while True:
            damped.diagonal().add_(strength - added)
            added = strength
            inverse = _inverse_factor(damped)
            if inverse is not None:
                break
            if strength >= _MOST_DAMPING:
                raise ValueError(f"the moment is not positive definite, even with {strength:.0%} damping")
            strength = min(10 * strength, _MOST_DAMPING)
        unit = 1 + added  # the mean diagonal now
        diagonal = inverse.diagonal().clone()
        inverse /= diagonal.unsqueeze(1)
        damped /= unit
    return Factor(_array(damped), _array(inverse), _array(1 / (unit * diagonal.square())))


def _inverse_factor(matrices: Tensor) -> Tensor | None:
    """U, upper triangular, with H⁻¹ = Uᵀ U of each of [..., n, n]; None unless all are positive definite.

    H = R Rᵀ with R upper triangular is Cholesky's factorization from the last column to the first, and U = R⁻¹.
    """
    lower, failed = torch.linalg.cholesky_ex(matrices.flip(-2, -1))
    if failed.any() or not torch.isfinite(lower.diagonal(dim1=-2, dim2=-1)).all():
        return None
    _invert(lower)
    upper: Tensor = lower.flip(-2, -1)
    return upper


def _invert(lower: Tensor) -> None:
    """A lower triangular matrix [..., n, n] becomes its inverse: by halves, which takes a third of the products that
    solving for the columns of 1 would take.
    """
    n = lower.shape[-1]
    if n <= _SOLVED:
        one = torch.eye(n, dtype=lower.dtype).expand_as(lower)
        lower.copy_(torch.linalg.solve_triangular(lower, one, upper=False))
        return
    half = n // 2
    first, last, between = lower[..., :half, :half], lower[..., half:, half:], lower[..., half:, :half]
    _invert(first)
    _invert(last)
    between.copy_(-(last @ between @ first))


@dataclass(frozen=True)
class InnerFactors:
    """Of the moments of groups of neighbours by themselves: float32 [groups, k, k] their inverses and, as in a
    :class:`Factor`, ``passed_on``; ``cost`` float32 [groups, k].
    """

    inverse: Array
    passed_on: Array
    cost: Array


def inner_factors(factor: Factor, k: int) -> InnerFactors:
    """For each ``k`` columns of a factor, in its order."""
    n = factor.columns
    moment = torch.from_numpy(factor.moment).view(n // k, k, n // k, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    with torch_threads(1):
        upper = _inverse_factor(moment.double())
        assert upper is not None, "parts of a positive definite matrix are"
        inverse = upper.mT @ upper
        diagonal = upper.diagonal(dim1=1, dim2=2)
        return InnerFactors(_array(inverse), _array(upper / diagonal.unsqueeze(2)), _array(1 / diagonal.square()))


def _array(values: Tensor) -> Array:
    return values.float().contiguous().numpy()


def check_moment(moment: Tensor, columns: int) -> None:
    """ValueError unless ``moment`` is a finite float matrix [columns, columns] without negative diagonal."""
    if moment.dim() != 2 or moment.shape != (columns, columns) or not moment.is_floating_point():
        raise ValueError(
            f"the moment of {columns} columns is a float matrix [{columns}, {columns}], "
            f"not {moment.dtype} {list(moment.shape)}"
        )
    if not torch.isfinite(moment).all() or (moment.diagonal() < 0).any():
        raise ValueError("the moment holds non-finite values or a negative diagonal")
