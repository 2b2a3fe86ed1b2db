"""The values that stored blocks can express with the scales they hold."""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.formats import Bits, TypeFormat, lookup
from hubquant.quants.traits import TRAITS, dequantize_blocks

_CODE_FIELDS = ("qs", "qh", "ql", "hmask")


def nearest_levels(x: Tensor, data: Tensor, type: str) -> tuple[Tensor, Tensor] | None:
    """For float32 ``x`` [rows, n] the nearest values that ``data`` (uint8 [rows, row_bytes]) could hold if only its
    codes were others, which is what rounding with the stored scales gives; and the mean distance of neighbouring
    levels. None for codebook types, whose codes are shared by several weights.
    """
    levels = TRAITS[type].levels if type in TRAITS else None
    if levels is None:
        return None
    fmt = lookup(type)
    low, high = (dequantize_blocks(_filled(data, fmt, byte), fmt).view(x.shape) for byte in (levels.low, levels.high))
    width, steps = high - low, levels.count - 1
    place = ((x - low) / torch.where(width == 0, 1.0, width)).clamp(0, 1)
    if levels.places is None:
        return low + width * ((place * steps).round() / steps), width.abs() / steps
    known = torch.tensor(levels.places, dtype=torch.float32, device=x.device)
    known = (known - known[0]) / (known[-1] - known[0])
    return low + width * known[torch.bucketize(place, (known[1:] + known[:-1]) / 2)], width.abs() / steps


def _filled(data: Tensor, fmt: TypeFormat, byte: int) -> Tensor:
    """The blocks, uint8 [blocks, block_bytes], with that byte wherever codes are stored."""
    blocks = data.reshape(-1, fmt.block_bytes).clone()
    start = 0
    for field in fmt.fields:
        end = start + field.nbytes(fmt.block_size)
        if isinstance(field, Bits) or field.name in _CODE_FIELDS:
            blocks[:, start:end] = byte
        start = end
    return blocks
