"""Rows of a matrix through the kernels: chunks, threads, padding to 16 blocks, conversion to float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu import exact
from hubquant.quants.cpu.vector import scan
from hubquant.quants.cpu.vector.grids import search_tables
from hubquant.quants.formats import LANES, TypeFormat

Array = np.ndarray[Any, Any]
Kernel = Callable[..., None]

# Weights a thread works on at a time: the fewest that are worth a call, and the most. Chunks start at multiples of 16
# rows, where the importance tiles start over.
_SMALL_CHUNK, _LARGE_CHUNK = 1 << 16, 1 << 20
_CHUNKS = 8  # of each thread, so that none waits long for the others


@dataclass(frozen=True)
class Kernels:
    """``plain(values, out)`` and ``weighted(values, [power,] importance, out)``; None where the type has no use for
    importance.
    """

    plain: Kernel | None
    weighted: Kernel | None
    row_power: bool = False


_IQ1_S, _IQ2_XXS, _IQ2_XS, _IQ2_S, _IQ3_XXS, _IQ3_S = (
    partial(search_tables, name) for name in ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
)

KERNELS: Mapping[str, Kernels] = {
    "Q4_0": Kernels(exact.legacy.q4_0, exact.legacy.q4_0_weighted, row_power=True),
    "Q4_1": Kernels(exact.legacy.q4_1, exact.legacy.q4_1_weighted, row_power=True),
    "Q5_0": Kernels(exact.legacy.q5_0, exact.legacy.q5_0_weighted, row_power=True),
    "Q5_1": Kernels(exact.legacy.q5_1, exact.legacy.q5_1_weighted, row_power=True),
    "Q8_0": Kernels(exact.legacy.q8_0, None),
    "Q2_K": Kernels(exact.k_quants.q2_k, exact.k_quants.q2_k_weighted),
    "Q3_K": Kernels(exact.k_quants.q3_k, exact.k_quants.q3_k_weighted),
    "Q4_K": Kernels(exact.k_quants.q4_k, exact.k_quants.q4_k_weighted),
    "Q5_K": Kernels(exact.k_quants.q5_k, exact.k_quants.q5_k_weighted),
    "Q6_K": Kernels(exact.k_quants.q6_k, exact.k_quants.q6_k_weighted),
    "IQ1_S": Kernels(None, exact.iq1.iq1_s_weighted.with_tables(_IQ1_S)),
    "IQ1_M": Kernels(exact.iq1.iq1_m.with_tables(_IQ1_S), exact.iq1.iq1_m_weighted.with_tables(_IQ1_S)),
    "IQ2_XXS": Kernels(None, exact.iq2.iq2_xxs_weighted.with_tables(_IQ2_XXS)),
    "IQ2_XS": Kernels(None, exact.iq2.iq2_xs_weighted.with_tables(_IQ2_XS)),
    "IQ2_S": Kernels(exact.iq2.iq2_s.with_tables(_IQ2_S), exact.iq2.iq2_s_weighted.with_tables(_IQ2_S)),
    "IQ3_XXS": Kernels(exact.iq3.iq3_xxs.with_tables(_IQ3_XXS), exact.iq3.iq3_xxs_weighted.with_tables(_IQ3_XXS)),
    "IQ3_S": Kernels(exact.iq3.iq3_s.with_tables(_IQ3_S), exact.iq3.iq3_s_weighted.with_tables(_IQ3_S)),
    "IQ4_NL": Kernels(exact.nonlinear.iq4_nl, exact.nonlinear.iq4_nl_weighted),
    "IQ4_XS": Kernels(exact.nonlinear.iq4_xs, exact.nonlinear.iq4_xs_weighted),
    "TQ1_0": Kernels(exact.ternary.tq1_0, None),
    "TQ2_0": Kernels(exact.ternary.tq2_0, None),
    "Q1_0": Kernels(exact.ternary.q1_0, None),
    "Q2_0": Kernels(exact.ternary.q2_0, None),
    "MXFP4": Kernels(exact.float4.mxfp4, None),
    "NVFP4": Kernels(exact.float4.nvfp4, None),
}


def quantize_rows(x: Tensor, fmt: TypeFormat, kernels: Kernels, importance: Tensor | None, threads: int) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] on the CPU; ValueError for NaN or infinity."""
    rows, n = x.shape
    out = np.empty((rows, fmt.row_bytes(n)), dtype=np.uint8)
    tiles = None if importance is None else _tiles(importance.float().cpu().numpy(), fmt.block_size)
    share = x.numel() // (_CHUNKS * threads if threads > 1 else 1)
    chunk = min(max(share, _SMALL_CHUNK), _LARGE_CHUNK)
    step = LANES * max(1, chunk // (LANES * n))

    def work(start: int) -> None:
        values = _float32(x[start : start + step])
        _check_finite(values, start)
        _quantize(values, fmt, kernels, tiles, out[start : start + step].reshape(-1, fmt.block_bytes))

    starts = range(0, rows, step)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(min(threads, len(starts))) as pool:
            list(pool.map(work, starts))
    return torch.from_numpy(out)


def _float32(x: Tensor) -> Array:
    """numpy converts on the calling thread, where torch would wake a pool of its own."""
    x = x.detach().cpu().contiguous()
    if x.dtype == torch.bfloat16:
        bits: Array = x.view(torch.int16).numpy().view(np.uint16)
        return np.left_shift(bits, 16, dtype=np.uint32, casting="unsafe").view(np.float32)
    return x.numpy().astype(np.float32, copy=False)


def _check_finite(values: Array, start: int) -> None:
    if np.isfinite(values.max()) and np.isfinite(values.min()):  # NaN is the maximum of all; no mask is made
        return
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    raise ValueError(f"row {start + bad[0]} holds NaN or infinity")


def _tiles(importance: Array, block_size: int) -> Array:
    """[n] -> [tiles, block_size, 16]: the importance of 16 neighbouring blocks, as lanes, until it repeats."""
    per_row = importance.size // block_size
    repeats = lcm(LANES, per_row) // per_row
    blocks = np.tile(importance, repeats).reshape(-1, LANES, block_size)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def _quantize(values: Array, fmt: TypeFormat, kernels: Kernels, tiles: Array | None, out: Array) -> None:
    """float32 [rows, n] into uint8 [blocks, block_bytes]."""
    count = out.shape[0]
    padded = -(-count // LANES) * LANES
    blocks = _padded(values.reshape(count, fmt.block_size), padded)
    target = _padded(out, padded)
    if kernels.weighted is None or (tiles is None and kernels.plain is not None):
        assert kernels.plain is not None
        kernels.plain(blocks, target)
    elif kernels.row_power:
        powers = np.empty(values.shape[0], np.float32)
        scan.mean_squares(values, powers)
        power = np.repeat(powers, values.shape[1] // fmt.block_size)
        kernels.weighted(blocks, _padded(power, padded), tiles, target)
    else:
        kernels.weighted(blocks, tiles, target)
    if target is not out:
        out[:] = target[:count]


def _padded(values: Array, count: int) -> Array:
    """``values`` with zeros appended up to ``count`` entries; themselves if they are that many."""
    if values.shape[0] == count:
        return values
    more = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
    more[: values.shape[0]] = values
    return more
