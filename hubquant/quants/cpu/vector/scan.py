"""One pass over the rows of a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import kernel
from hubquant.quants.cpu.vector.simd import LANES, load_lanes, offset, pointer, splat, store, vectors

Array = np.ndarray[Any, Any]


@kernel
def mean_squares(values: Array, out: Array) -> None:
    """Σx² / n of each row of float32 [rows, n], summed left to right in float32; n is a multiple of 16."""
    rows, n = values.shape
    x = vectors(16)
    whole = rows // LANES * LANES
    for row in range(0, whole, LANES):
        total = splat(np.float32(0))
        for start in range(0, n, 16):
            load_lanes(x, offset(pointer(values), row * n + start), n)
            for i in range(16):
                total = total + x[i] * x[i]
        store(pointer(out), row, total / np.float32(n))
    for row in range(whole, rows):
        rest = np.float32(0)
        for value in values[row]:
            rest += value * value
        out[row] = rest / np.float32(n)
