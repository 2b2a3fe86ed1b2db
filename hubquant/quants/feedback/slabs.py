"""Feedback around any type's own search: it quantizes a slab of columns, whose errors go to those after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hubquant.quants.cpu.rows import Decoder, Kernels, dequantize_rows, quantize_rows
from hubquant.quants.feedback.factor import Factor
from hubquant.quants.feedback.kernels import passing
from hubquant.quants.feedback.sizes import SLAB
from hubquant.quants.feedback.tiles import from_tiles, to_tiles
from hubquant.quants.formats import TypeFormat

Array = np.ndarray[Any, Any]


class Slabs:
    """A type without a method of its own."""

    def __init__(self, fmt: TypeFormat, kernels: Kernels, decoder: Decoder, factor: Factor) -> None:
        self._fmt, self._kernels, self._decoder, self._factor = fmt, kernels, decoder, factor

    def quantize(self, values: Array) -> tuple[Array, Array]:
        """float32 [rows, n] -> their bytes [rows, row_bytes] and what these stand for [rows, n]."""
        rows, n = values.shape
        x = to_tiles(values)
        importance = self._factor.importance
        data, found = [], []
        for start in range(0, n, SLAB):
            stop = min(start + SLAB, n)
            slab = from_tiles(x[:, start:stop], rows)
            held = quantize_rows(
                torch.from_numpy(slab), self._fmt, self._kernels, importance[start:stop].contiguous(), threads=1
            )
            decoded = dequantize_rows(held, self._fmt, self._decoder, stop - start, threads=1).numpy()
            errors = slab - decoded
            errors[~np.isfinite(errors)] = 0  # beyond half precision: others cannot make up for it
            passing.pass_on(x, to_tiles(errors), self._factor.passed_on.numpy(), np.array([stop, n, start]))
            data.append(held.numpy())
            found.append(decoded)
        return np.concatenate(data, axis=1), np.concatenate(found, axis=1)
