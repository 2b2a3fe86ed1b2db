"""The weights that a Q3_K block holds worst."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import kernel, primitive

Array = np.ndarray[Any, Any]


@primitive
def _largest(cost: Array, values: Array, found: Array) -> None:
    """``values`` = the largest of ``cost`` ≥ 0 in falling order, the first of equal ones first; ``found`` = where they
    are.
    """
    n = found.size
    values[:] = np.float32(-1)
    for i in range(cost.size):
        if cost[i] > values[n - 1]:
            k = n - 1
            while k > 0 and values[k - 1] < cost[i]:
                values[k], found[k] = values[k - 1], found[k - 1]
                k -= 1
            values[k], found[k] = cost[i], i


@kernel
def largest_errors(
    values: Array,
    importance: Array,
    scales: Array,
    chosen: Array,
    worst: Array,
    error: Array,
    cost: Array,
    kept: Array,
    largest: Array,
) -> None:
    """``worst`` [blocks, 8] = the weights of largest weighted squared error when rounded at ``scales``; ``error`` = the
    sum of those that are not ``chosen``. ``cost``, ``kept`` [block size] and ``largest`` [8] are for its own use.
    """
    n = values.shape[1]
    for block in range(values.shape[0]):
        mean = np.float32(0)
        for i in range(n):
            mean += values[block, i] * values[block, i]
        mean *= np.float32(2.0 / n)
        kept[:] = 1
        for k in range(chosen.shape[1]):
            kept[chosen[block, k]] = 0
        total = np.float32(0)
        for i in range(n):
            x, scale = values[block, i], scales[block, i // 16]
            code = np.float32(0) if scale == 0 else min(max(np.rint(x / scale), np.float32(-4)), np.float32(3))
            weight = importance[block // 16 % importance.shape[0], i, block % 16] * np.sqrt(mean + x * x)
            squared = weight * (x - scale * code) ** 2
            cost[i] = squared if squared == squared else np.float32(0)  # beyond single precision
            if kept[i]:
                total += cost[i]
        error[block] = total
        _largest(cost, largest, worst[block])
