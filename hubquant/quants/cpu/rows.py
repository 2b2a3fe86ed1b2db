"""Rows of a matrix through the kernels: chunks, threads, padding to 16 blocks, to float32 and back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.cpu.vector import scan
from hubquant.quants.formats import LANES, TypeFormat

Array = np.ndarray[Any, Any]
Kernel = Callable[..., None]

# Weights a thread works on at a time: the fewest that are worth a call, and the most. Chunks start at multiples of 16
# rows, where the importance tiles start over.
_SMALL_CHUNK, _LARGE_CHUNK = 1 << 16, 1 << 20
_CHUNKS = 8  # of each thread, so that none waits long for the others


@dataclass(frozen=True)
class Kernels:
    """``plain(values, out, *tables)`` and ``weighted(values, [power,] importance, out, *tables)``.

    ``plain`` is None where the type needs importance, ``weighted`` where it has no use for it; ``row_power``: it weighs
    by the mean square of the row too. ``tables`` makes the arrays that the search looks up.
    """

    plain: Kernel | None
    weighted: Kernel | None
    row_power: bool = False
    tables: Callable[[], tuple[Array, ...]] = tuple


@dataclass(frozen=True)
class Decoder:
    """``kernel(data, out, *tables)`` from uint8 [blocks, block_bytes] to float32 [blocks, block_size]."""

    kernel: Kernel
    tables: Callable[[], tuple[Array, ...]] = tuple


def dequantize_rows(data: Tensor, fmt: TypeFormat, decoder: Decoder, n: int, threads: int) -> Tensor:
    """uint8 ``data`` [rows, row_bytes] on the CPU -> float32 [rows, n]."""
    out = np.empty((len(data), n), np.float32)  # numpy asks for huge pages: small ones take longer than the kernels
    tables = decoder.tables()

    def work(start: int, stop: int) -> None:
        blocks = data[start:stop].contiguous().numpy().reshape(-1, fmt.block_bytes)
        decoder.kernel(blocks, out[start:stop].reshape(-1, fmt.block_size), *tables)

    share(work, len(data), max(1, _chunk(out.size, threads) // n), threads)
    return torch.from_numpy(out)


def quantize_rows(x: Tensor, fmt: TypeFormat, kernels: Kernels, importance: Tensor | None, threads: int) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] on the CPU; ValueError for NaN or infinity."""
    rows, n = x.shape
    out = np.empty((rows, fmt.row_bytes(n)), dtype=np.uint8)
    tiles = None if importance is None else _tiles(importance.float().cpu().numpy(), fmt.block_size)
    step = LANES * max(1, _chunk(x.numel(), threads) // (LANES * n))

    def work(start: int, stop: int) -> None:
        values = as_float32(x[start:stop])
        check_finite(values, start)
        _quantize(values, fmt, kernels, tiles, out[start:stop].reshape(-1, fmt.block_bytes))

    share(work, rows, step, threads)
    return torch.from_numpy(out)


def _chunk(size: int, threads: int) -> int:
    """How many of ``size`` weights a thread is to work on at a time."""
    share = size // (_CHUNKS * threads if threads > 1 else 1)
    return min(max(share, _SMALL_CHUNK), _LARGE_CHUNK)


def share(work: Callable[[int, int], None], rows: int, step: int, threads: int) -> None:
    """``work(start, stop)`` for every ``step`` rows, in so many threads."""
    starts = range(0, rows, step)
    stops = [*starts[1:], rows]
    if threads == 1 or len(starts) < 2:
        for start, stop in zip(starts, stops, strict=False):
            work(start, stop)
    else:
        with ThreadPoolExecutor(min(threads, len(starts))) as pool:
            list(pool.map(work, starts, stops))


def as_float32(x: Tensor) -> Array:
    """numpy converts on the calling thread, where torch would wake a pool of its own."""
    x = x.detach().cpu().contiguous()
    if x.dtype == torch.bfloat16:
        bits: Array = x.view(torch.int16).numpy().view(np.uint16)
        return np.left_shift(bits, 16, dtype=np.uint32, casting="unsafe").view(np.float32)
    return x.numpy().astype(np.float32, copy=False)


def check_finite(values: Array, start: int) -> None:
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
        kernels.plain(blocks, target, *kernels.tables())
    elif kernels.row_power:
        powers = np.empty(values.shape[0], np.float32)
        scan.mean_squares(values, powers)
        power = np.repeat(powers, values.shape[1] // fmt.block_size)
        kernels.weighted(blocks, _padded(power, padded), tiles, target, *kernels.tables())
    else:
        kernels.weighted(blocks, tiles, target, *kernels.tables())
    if target is not out:
        out[:] = target[:count]


def _padded(values: Array, count: int) -> Array:
    """``values`` with zeros appended up to ``count`` entries; themselves if they are that many."""
    if values.shape[0] == count:
        return values
    more = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
    more[: values.shape[0]] = values
    return more
