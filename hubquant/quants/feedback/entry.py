"""Quantize a matrix with error feedback, and measure what that is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.api import check_matrix, quantize, written
from hubquant.quants.cpu.rows import as_float32, check_finite, share
from hubquant.quants.feedback.books import BOOKS
from hubquant.quants.feedback.codebook import Codebook
from hubquant.quants.feedback.factor import DAMPING, Factor, check_moment, factorize
from hubquant.quants.feedback.grids import GRIDS
from hubquant.quants.feedback.scalar import Scalar
from hubquant.quants.feedback.slabs import Slabs
from hubquant.quants.feedback.tensor.scalar import TensorScalar
from hubquant.quants.formats import LANES, TypeFormat, lookup
from hubquant.quants.traits import TypeTraits

Array = np.ndarray[Any, Any]

_ROWS = 8 * LANES  # of a thread at a time
_CHUNK = 1 << 20  # weights whose errors are held in double precision at a time


class Method(Protocol):
    """How a matrix becomes a type. What becomes of a row does not depend on the others."""

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""


@dataclass(frozen=True, eq=False)
class Feedback:
    """Error feedback for all weights that one ``moment`` is the second moment of the inputs of, and for all types.

    ``moment`` float [n, n] is H = E[x xᵀ], in any unit. ``damping`` · its mean diagonal is added to its diagonal, so
    that what was seen by chance counts for little. It is factorized once, in ``threads``, on the GPU where it is on
    one: that takes n³ / 3 multiplications, and 8 n² bytes of memory there as long as this lives, half as much again
    before.

    ValueError: damping that is not positive; a moment that is no square matrix, not finite, or so far from a second
    moment that no damping up to its mean diagonal makes it positive definite.
    """

    factor: Factor

    @classmethod
    def of(cls, moment: Tensor, damping: float = DAMPING, threads: int | None = None) -> Feedback:
        check_moment(moment, moment.shape[-1])
        if not 0 < damping < float("inf"):
            raise ValueError(f"damping must be positive, not {damping}")
        return cls(factorize(moment, damping, threads or torch.get_num_threads()))

    def device_for(self, type: str) -> torch.device:
        """Where weights are rounded to a type without a copy of the factor: that of the moment, or the CPU."""
        return self.factor.moment.device if lookup(type).name in GRIDS else torch.device("cpu")

    def quantize(self, x: Tensor, type: str, threads: int | None = None) -> Tensor:
        """As :func:`quantize_with_feedback`."""
        traits, fmt = written(type), lookup(type)
        check_matrix(x, fmt, None)
        if x.shape[1] != self.factor.columns:
            raise ValueError(f"weights {list(x.shape)} do not fit a moment of {self.factor.columns} columns")
        if traits.dtype is not None:
            return quantize(x, type)
        if x.device.type != "cpu" and fmt.name in GRIDS:
            assert traits.search is not None
            return TensorScalar(fmt, GRIDS[fmt.name], traits.search, self.factor, x.device).quantize(x)
        method = _method(fmt, traits, self.factor.on_cpu)
        data, _ = _with_values(x, method, fmt, threads or torch.get_num_threads())
        return data.to(x.device)


def quantize_with_feedback(
    x: Tensor, type: str, moment: Tensor, damping: float = DAMPING, threads: int | None = None
) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] in the layout of ``type``, with a small :func:`weighted_error`
    for inputs of the second ``moment`` [n, n]. Of several matrices with the same inputs, or types, :class:`Feedback`
    shares the work.

    The same bytes for any number of ``threads`` of the CPU, which defaults to torch's. On the device of ``x``, but for
    types with codebooks and those without a :class:`Grid` on the CPU; the result is on the device of ``x``. Types of
    plain numbers are converted as by :func:`quantize`. ValueError: what :func:`quantize` and :class:`Feedback` raise,
    and a moment of other columns.
    """
    check_matrix(x, lookup(type), None)
    check_moment(moment, x.shape[1])
    return Feedback.of(moment, damping, threads).quantize(x, type, threads)


def _method(fmt: TypeFormat, traits: TypeTraits, factor: Factor) -> Method:
    assert traits.best is not None
    assert traits.decoder is not None
    if fmt.name in GRIDS:
        return Scalar(fmt, GRIDS[fmt.name], traits.best, factor)
    if fmt.name in BOOKS:
        return Codebook(fmt, BOOKS[fmt.name], traits.best, factor)
    return Slabs(fmt, traits.best, traits.decoder, factor)


def _with_values(x: Tensor, method: Method, fmt: TypeFormat, threads: int) -> tuple[Tensor, Tensor]:
    """The bytes of a matrix, and the values [rows, n] that were meant by them."""
    rows, n = x.shape
    data, values = np.empty((rows, fmt.row_bytes(n)), np.uint8), np.empty((rows, n), np.float32)

    def work(start: int, stop: int) -> None:
        weights = as_float32(x[start:stop])
        check_finite(weights, start)
        data[start:stop], values[start:stop] = method.quantize(weights)

    share(work, rows, _ROWS, threads)
    return torch.from_numpy(data), torch.from_numpy(values)


def weighted_error(x: Tensor, y: Tensor, moment: Tensor) -> float:
    """tr((x − y) H (x − y)ᵀ) / tr(x H xᵀ): the share of a layer's output power that ``y`` gets wrong in place of the
    weights ``x``, both float [rows, n], for inputs of the second ``moment`` H [n, n].

    In double precision. 0 where the layer has no outputs and both are equal, infinity where they are not. ValueError
    for shapes that do not fit.
    """
    return weighted_errors(x, [y], moment)[0]


def weighted_errors(x: Tensor, ys: Sequence[Tensor], moment: Tensor) -> list[float]:
    """:func:`weighted_error` of each of ``ys``."""
    for y in ys:
        if x.dim() != 2 or x.shape != y.shape:
            raise ValueError(f"weights {list(x.shape)} and {list(y.shape)} are not two matrices of one shape")
    check_moment(moment, x.shape[1])
    h = moment.to(x.device, torch.float64)
    power, lost = 0.0, [0.0] * len(ys)
    for start in range(0, len(x), max(1, _CHUNK // x.shape[1])):
        part = slice(start, start + max(1, _CHUNK // x.shape[1]))
        weights = x[part].double()
        power += float(((weights @ h) * weights).sum())
        for i, y in enumerate(ys):
            errors = weights - y[part].to(x.device).double()
            lost[i] += float(((errors @ h) * errors).sum())
    if power > 0:
        return [each / power for each in lost]
    return [0.0 if each <= 0 else float("inf") for each in lost]
