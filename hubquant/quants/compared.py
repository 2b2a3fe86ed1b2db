"""Weights beside what is stored of them: how far the two are apart, and how near they could be with the same scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubquant.quants.api import dequantize
from hubquant.quants.cpu.vector import comparing
from hubquant.quants.formats import LANES, TypeFormat, lookup
from hubquant.quants.layout import CODES, with_codes
from hubquant.quants.levels import Levels
from hubquant.quants.traits import TRAITS

Array = np.ndarray[Any, Any]

_OF_ONE_WEIGHT = "outlier"
_SUMS = 7
_SQUARED = 4  # the first of them are of squares or products
_SMALLER = 2.0**-70  # what this makes of any float32 can be squared and added up


@dataclass(frozen=True)
class RowSums:
    """Of each row of x and y, float64 [rows]: Σ(x − y)², Σ(x − nearest)², Σx², Σxy, Σ sign(xy), how many x are not 0,
    max |x|.

    The nearest is what the stored bytes could hold if only their codes were others, which is what rounding with the
    stored scales gives; ``between`` = Σ step² / 12 with the mean distance of neighbouring levels. ``least`` and
    ``between`` mean nothing for codebook types, whose codes are shared by several weights.
    """

    error: Tensor
    least: Tensor
    power: Tensor
    along: Tensor
    agreeing: Tensor
    filled: Tensor
    peak: Tensor
    between: Tensor


def row_sums(x: Tensor, y: Tensor, data: Tensor, type: str) -> RowSums:
    """Of float32 ``x`` [rows, n], and of ``data`` (uint8 [rows, row_bytes]) and the ``y`` that it holds, on the CPU.

    n is a multiple of 16, in which float32 sums of each row are added up. Those of a row that holds what is not finite
    are not finite.
    """
    levels = TRAITS[type].levels
    if levels is None:
        none = torch.zeros(len(x), x.shape[1] // LANES)
        return _sums(x, y, none, none, 0, (), none.sum(1).double())
    low, high = _ends(data, type, levels, x.shape[1])
    steps = levels.count - 1
    step = (high - low) / steps
    between = step.double().square().sum(1) / 12 * (x.shape[1] // low.shape[1])
    if levels.places is None:
        return _sums(x, y, low, step, steps, (), between)
    first, last = levels.places[0], levels.places[-1]
    places = [(place - first) / (last - first) for place in levels.places]
    return _sums(x, y, low, high - low, steps, places, between)


def _ends(data: Tensor, type: str, levels: Levels, n: int) -> tuple[Tensor, Tensor]:
    """The lowest and the highest level of each weight: float32 [rows, n / 16], each for 16 neighbours with one scale,
    or [rows, n]."""
    fmt = lookup(type)
    blocks, values = data.reshape(-1, fmt.block_bytes), TRAITS[type].values
    shares_scales = not any(field.name == _OF_ONE_WEIGHT for field in fmt.fields)
    ends = levels.low, levels.high
    if values is not None and shares_scales:
        found = values(with_codes(blocks, fmt, ends, fmt.block_size // LANES)).view(len(data), -1, 2)
        return found[:, :, 0], found[:, :, 1]
    low, high = (dequantize(_filled(blocks, fmt, byte).view(data.shape), type, n) for byte in ends)
    return (low[:, ::LANES], high[:, ::LANES]) if shares_scales else (low, high)


def _filled(blocks: Tensor, fmt: TypeFormat, byte: int) -> Tensor:
    """The blocks, uint8 [blocks, block_bytes], with that byte wherever codes are stored."""
    blocks, start = blocks.clone(), 0
    for field in fmt.fields:
        end = start + field.nbytes(fmt.block_size)
        if field.name in CODES:
            blocks[:, start:end] = byte
        start = end
    return blocks


def _sums(
    x: Tensor, y: Tensor, low: Tensor, unit: Tensor, top: int, places: Sequence[float], between: Tensor
) -> RowSums:
    """Levels are as :func:`comparing.sums_of_rows` takes them."""
    known = np.array(places, np.float32)
    bounds = np.concatenate([known[:1], (known[1:] + known[:-1]) / 2])

    def run(factor: float) -> Tensor:
        arrays = [(values if factor == 1 else values * factor).contiguous().numpy() for values in (x, y, low, unit)]
        out = np.empty((len(x), _SUMS, LANES), np.float32)
        comparing.sums_of_rows(*arrays, np.array([top], np.float32), known, bounds, out)
        lanes = torch.from_numpy(out)
        sums = torch.cat([lanes[:, :-1] @ torch.ones(LANES), lanes[:, -1:].amax(2)], dim=1).double()
        sums[:, :_SQUARED] /= factor**2
        sums[:, -1] /= factor
        return sums

    sums = run(1)
    if not (fine := sums.isfinite().all(1)).all():
        sums = torch.where(fine[:, None], sums, run(_SMALLER))
    error, least, power, along, agreeing, filled, peak = sums.unbind(1)
    return RowSums(error, least, power, along, agreeing, filled, peak, between)
