"""Q3_K_HIFI: a Q3_K block, and the eight of its weights that Q3_K would hold worst in half precision.

Which eight is least trimmed squares (Rousseeuw and Van Driessen, 2006): quantize the block without the present eight,
take the eight of largest weighted error at the scales that were found, and so on. The best block that was seen is kept.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.rows import Kernel, Kernels
from hubquant.quants.formats import lookup
from hubquant.quants.layout import signed_six_bit_scales

Array = np.ndarray[Any, Any]

_f = np.float32
_HIFI, _Q3_K = lookup("Q3_K_HIFI"), lookup("Q3_K")
_OUTLIERS = _HIFI.field("index").nbytes(_HIFI.block_size)
_STEPS = 3
_HALF_MAX = _f(65504)


def with_outliers(q3_k: Kernels) -> Kernels:
    """The kernels of Q3_K_HIFI over those of Q3_K."""
    assert q3_k.plain is not None
    assert q3_k.weighted is not None
    return Kernels(partial(_plain, q3_k.plain), partial(_weighted, q3_k.weighted))


def _plain(q3_k: Kernel, values: Array, out: Array) -> None:
    _encode(q3_k, values, np.ones((1, _HIFI.block_size, 16), np.float32), out)


def _weighted(q3_k: Kernel, values: Array, importance: Array, out: Array) -> None:
    _encode(lambda kept, data: q3_k(kept, importance, data), values, importance, out)


def _encode(q3_k: Kernel, values: Array, importance: Array, out: Array) -> None:
    blocks = values.shape[0]
    data = np.empty((blocks, _Q3_K.block_bytes), np.uint8)
    found, least = np.empty((blocks, _OUTLIERS), np.uint8), np.full(blocks, np.nan, np.float32)
    worst, error = np.empty_like(found), np.empty_like(least)
    chosen = np.zeros_like(worst)
    largest_errors(values, importance, np.zeros((blocks, 16), np.float32), chosen, worst, error)
    for _ in range(_STEPS):
        chosen[:] = worst
        kept = values.copy()
        np.put_along_axis(kept, chosen.astype(np.intp), 0, axis=1)
        q3_k(kept, data)
        largest_errors(values, importance, _scales(data), chosen, worst, error)
        better = ~(error >= least)  # true of the first
        least[better], found[better] = error[better], chosen[better]
        out[better, : _Q3_K.block_bytes] = data[better]
    _put_outliers(values, found, out)


def _scales(data: Array) -> Array:
    """The scale of every 16 weights: uint8 [blocks, 110] -> float32 [blocks, 16]."""
    start, d = _Q3_K.offset("scales"), _Q3_K.offset("d")
    packed = torch.from_numpy(data[:, start : start + 12])
    supers = np.ascontiguousarray(data[:, d : d + 2]).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):  # llama.cpp's Q3_K has infinite ones for weights beyond half precision
        scales: Array = supers * signed_six_bit_scales(packed).numpy()
    return scales


@primitive
def _largest(cost: Array, found: Array) -> None:
    """``found`` = where the largest of ``cost`` ≥ 0 are, in falling order, the first of equal ones first."""
    n = found.size
    values = np.full(n, np.float32(-1))
    for i in range(cost.size):
        if cost[i] > values[n - 1]:
            k = n - 1
            while k > 0 and values[k - 1] < cost[i]:
                values[k], found[k] = values[k - 1], found[k - 1]
                k -= 1
            values[k], found[k] = cost[i], i


@kernel
def largest_errors(values: Array, importance: Array, scales: Array, chosen: Array, worst: Array, error: Array) -> None:
    """``worst`` [blocks, 8] = the weights of largest weighted squared error when rounded at ``scales``; ``error`` = the
    sum of those that are not ``chosen``.
    """
    n = values.shape[1]
    cost, kept = np.empty(n, np.float32), np.empty(n, np.bool_)
    for block in range(values.shape[0]):
        mean = np.float32(0)
        for i in range(n):
            mean += values[block, i] * values[block, i]
        mean *= np.float32(2.0 / n)
        kept[:] = True
        for k in range(chosen.shape[1]):
            kept[chosen[block, k]] = False
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
        _largest(cost, worst[block])


def _put_outliers(values: Array, chosen: Array, out: Array) -> None:
    """Used places come first, in the order of the weights: some readers stop at the first zero, others at the count."""
    halves = np.take_along_axis(values, chosen.astype(np.intp), axis=1)
    halves = np.clip(halves, -_HALF_MAX, _HALF_MAX).astype(np.float16)
    order = np.lexsort((chosen, halves == 0), axis=1)
    index, outlier, count = (_HIFI.offset(name) for name in ("index", "outlier", "count"))
    out[:, index:outlier] = np.take_along_axis(chosen, order, axis=1)
    out[:, outlier:count] = np.take_along_axis(halves, order, axis=1).view(np.uint8)
    out[:, count] = np.count_nonzero(halves, axis=1)
    out[:, count + 1] = 0
