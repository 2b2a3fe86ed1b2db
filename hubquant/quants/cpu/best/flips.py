"""Which flips lead from a state to an entry of IQ1's codebook (:mod:`ternary_grid`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import kernel

Array = np.ndarray[Any, Any]


@kernel
def list_flips(index: Array, sets: Array, flips: Array) -> None:
    """Fills :func:`ternary_grid.flip_tables`: of the ``sets`` of flips, in this order, those that lead to an entry."""
    for state in range(index.size):
        count = 0
        if index[state] < 0:
            for candidate in sets:
                if count < flips.shape[1] and index[state ^ candidate << 8] >= 0:
                    minimal = True
                    for k in range(count):
                        minimal = minimal and flips[state, k] & candidate != flips[state, k]
                    if minimal:
                        flips[state, count] = candidate
                        count += 1
            for k in range(count, flips.shape[1]):
                flips[state, k] = flips[state, 0]
