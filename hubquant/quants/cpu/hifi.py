"""Q3_K_HIFI: a Q3_K block, and the eight of its weights that Q3_K would hold worst in half precision.

Which eight is least trimmed squares (Rousseeuw and Van Driessen, 2006): quantize the block without the present eight,
take the eight of largest weighted error at the scales that were found, and so on. The best block that was seen is kept.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from hubquant.quants.cpu.rows import Kernel, Kernels
from hubquant.quants.cpu.vector import outliers
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
    size = _HIFI.block_size
    scratch = np.empty(size, np.float32), np.empty(size, np.uint8), np.empty(_OUTLIERS, np.float32)
    outliers.largest_errors(values, importance, np.zeros((blocks, 16), np.float32), chosen, worst, error, *scratch)
    for _ in range(_STEPS):
        chosen[:] = worst
        kept = values.copy()
        np.put_along_axis(kept, chosen.astype(np.intp), 0, axis=1)
        q3_k(kept, data)
        outliers.largest_errors(values, importance, _scales(data), chosen, worst, error, *scratch)
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
