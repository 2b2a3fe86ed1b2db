"""Feedback around any type's own search: it quantizes a slab of columns, whose errors go to those after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hubquant.devices import torch_threads
from hubquant.quants.cpu.rows import Decoder, Kernels, dequantize_rows, quantize_rows
from hubquant.quants.feedback.factor import Factor
from hubquant.quants.feedback.kernels import passing
from hubquant.quants.feedback.start import SLAB
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat

Array = np.ndarray[Any, Any]


class Slabs:
    """A type without a method of its own."""

    def __init__(self, fmt: TypeFormat, kernels: Kernels, decoder: Decoder, factor: Factor) -> None:
        self._fmt, self._kernels, self._decoder, self._factor = fmt, kernels, decoder, factor
        self._starts = range(0, factor.columns, SLAB)
        self._importance = factor.importance
        # The errors of a slab, each one's effect on the later columns of the slab undone: (x − v) · U_bb⁻¹ · U_b,rest
        with torch_threads(1):
            self._passed_on = [self._between(start) for start in self._starts]

    def _between(self, start: int) -> Array:
        factor = torch.from_numpy(self._factor.passed_on[start : start + SLAB]).double()
        inside, rest = factor[:, start : start + SLAB], factor[:, start + SLAB :]
        solved = torch.linalg.solve_triangular(inside, rest, upper=True, unitriangular=True)
        factors: Array = solved.float().contiguous().numpy()
        return factors

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""
        rows, n = values.shape
        x = to_tiles(values)
        data, found = [], []
        for start, factors in zip(self._starts, self._passed_on, strict=True):
            stop = min(start + SLAB, n)
            slab = from_tiles(x[:, start:stop], rows)
            held = quantize_rows(
                torch.from_numpy(slab), self._fmt, self._kernels, self._importance[start:stop].contiguous(), threads=1
            )
            decoded = dequantize_rows(held, self._fmt, self._decoder, stop - start, threads=1).numpy()
            errors = slab - decoded
            errors[~np.isfinite(errors)] = 0  # beyond half precision: others cannot make up for it
            if stop < n:
                rest = np.ascontiguousarray(x[:, stop:])
                passing.pass_on(rest, to_tiles(errors), factors, np.array([0, n - stop, 0]))
                x[:, stop:] = rest
            data.append(held.numpy())
            found.append(decoded)
        return np.concatenate(data, axis=1), np.concatenate(found, axis=1)
