"""Quantize a matrix with error feedback, and measure what that is for."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.api import check_matrix, quantize, written
from hubquant.quants.cpu.rows import as_float32, check_finite, share
from hubquant.quants.feedback.books import BOOKS
from hubquant.quants.feedback.codebook import Codebook
from hubquant.quants.feedback.factor import DAMPING, check_moment, factorize
from hubquant.quants.feedback.grids import GRIDS
from hubquant.quants.feedback.scalar import Scalar
from hubquant.quants.feedback.slabs import Slabs
from hubquant.quants.feedback.start import falling_order
from hubquant.quants.formats import LANES, TypeFormat, lookup
from hubquant.quants.traits import TypeTraits

Array = np.ndarray[Any, Any]

_ROWS = 8 * LANES  # of a thread at a time
_CHUNK = 1 << 20  # weights whose errors are held in double precision at a time


class Method(Protocol):
    """How a matrix becomes a type. What becomes of a row does not depend on the others."""

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""


def quantize_with_feedback(
    x: Tensor, type: str, moment: Tensor, damping: float = DAMPING, threads: int | None = None
) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] in the layout of ``type``, with a small :func:`weighted_error`.

    ``moment`` float [n, n] is H = E[x xᵀ], the second moment of the inputs that the weights are multiplied by, in any
    unit. ``damping`` · its mean diagonal is added to its diagonal, so that what was seen by chance counts for little.
    The same bytes for any number of ``threads``, which defaults to torch's. On the CPU; the result is on the device of
    ``x``. Types of plain numbers are converted as by :func:`quantize`.

    ValueError: what :func:`quantize` raises; damping that is not positive; a moment of another shape, not finite, or so
    far from a second moment that no damping up to its mean diagonal makes it positive definite.
    """
    traits, fmt = written(type), lookup(type)
    check_matrix(x, fmt, None)
    check_moment(moment, x.shape[1])
    if not 0 < damping < float("inf"):
        raise ValueError(f"damping must be positive, not {damping}")
    if traits.dtype is not None:
        return quantize(x, type)
    data, _ = _with_values(x, _method(fmt, traits, moment, damping), fmt, threads or torch.get_num_threads())
    return data.to(x.device)


def _method(fmt: TypeFormat, traits: TypeTraits, moment: Tensor, damping: float) -> Method:
    assert traits.best is not None
    assert traits.decoder is not None
    power = moment.detach().cpu().diagonal().float()
    if fmt.name in GRIDS:
        grid = GRIDS[fmt.name]
        order = falling_order(power, grid.group, together=False)
        return Scalar(fmt, grid, traits.best, factorize(moment, order.columns, damping), order)
    if fmt.name in BOOKS:
        book = BOOKS[fmt.name]
        order = falling_order(power, book.group, together=True)
        return Codebook(fmt, book, traits.best, factorize(moment, order.columns, damping), order)
    factor = factorize(moment, torch.arange(moment.shape[0]), damping)
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
    if x.dim() != 2 or x.shape != y.shape:
        raise ValueError(f"weights {list(x.shape)} and {list(y.shape)} are not two matrices of one shape")
    check_moment(moment, x.shape[1])
    h = moment.to(x.device, torch.float64)
    lost = power = 0.0
    for start in range(0, len(x), max(1, _CHUNK // x.shape[1])):
        stop = start + max(1, _CHUNK // x.shape[1])
        weights = x[start:stop].double()
        errors = weights - y[start:stop].to(x.device).double()
        lost += float(((errors @ h) * errors).sum())
        power += float(((weights @ h) * weights).sum())
    if power > 0:
        return lost / power
    return 0.0 if lost <= 0 else float("inf")
