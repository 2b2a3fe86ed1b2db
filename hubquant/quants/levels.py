"""The values that stored blocks can express with the scales they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hubquant.quants.formats import Bits, TypeFormat, lookup
from hubquant.quants.layout import dequantize_blocks

_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FLOAT4 = (-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6)


@dataclass(frozen=True)
class _Levels:
    """``low`` and ``high`` fill the bytes of the codes so that every weight has its lowest and its highest level;
    ``places`` are all levels on a scale of their own, None where ``count`` of them are evenly spaced."""

    count: int
    low: int = 0x00
    high: int = 0xFF
    places: tuple[float, ...] | None = None


LEVELS: Mapping[str, _Levels] = {
    "Q8_0": _Levels(255, low=0x81, high=0x7F),
    "Q6_K": _Levels(64),
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), _Levels(32)),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), _Levels(16)),
    **dict.fromkeys(("Q3_K", "Q3_K_HIFI"), _Levels(8)),
    **dict.fromkeys(("Q2_K", "Q2_0"), _Levels(4)),
    "TQ1_0": _Levels(3),
    "TQ2_0": _Levels(3, high=0xAA),
    "Q1_0": _Levels(2),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), _Levels(16, places=_IQ4)),
    **dict.fromkeys(("MXFP4", "NVFP4"), _Levels(16, low=0xFF, high=0x77, places=_FLOAT4)),
}
_CODE_FIELDS = ("qs", "qh", "ql", "hmask")


def nearest_levels(x: Tensor, data: Tensor, type: str) -> tuple[Tensor, Tensor] | None:
    """For float32 ``x`` [rows, n] the nearest values that ``data`` (uint8 [rows, row_bytes]) could hold if only its
    codes were others, which is what rounding with the stored scales gives; and the mean distance of neighbouring
    levels. None for codebook types, whose codes are shared by several weights.
    """
    levels = LEVELS.get(type)
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
