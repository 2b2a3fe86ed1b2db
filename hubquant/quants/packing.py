"""From codes to stored bytes: the inverse of :mod:`layout`, torch operations on the specs of :mod:`formats`.

Codes, integer scales and minima are integer tensors whose values fit their bits; super-scales are float tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from hubquant.quants.formats import Bits, TypeFormat

_DTYPES = {"f16": torch.float16, "u8": torch.uint8, "i8": torch.int8}


def pack(fmt: TypeFormat, numbers: Mapping[str, Tensor], codes: Tensor | None = None) -> Tensor:
    """The bytes of blocks, uint8 [blocks, block_bytes].

    ``numbers`` are the members that are not bit planes, each [blocks, count], or [blocks] where the count is 1, or
    uint8 if they are the stored bytes; ``codes`` [blocks, block_size] fill the bit planes.
    """
    parts = []
    for field in fmt.fields:
        if isinstance(field, Bits):
            assert codes is not None
            parts.append(pack_bits(codes, field))
            continue
        values = numbers[field.name]
        values = values.reshape(values.shape[0], -1)
        if values.dtype != torch.uint8 and field.kind == "u16":
            values = little_endian(values, 2)
        elif values.dtype != torch.uint8:
            values = values.to(_DTYPES[field.kind])
        parts.append(values.contiguous().view(torch.uint8))
    return torch.cat(parts, dim=1)


def pack_bits(codes: Tensor, plane: Bits) -> Tensor:
    """One bit plane of ``codes`` [blocks, n]: uint8 [blocks, n · bits / 8]."""
    part = (codes.to(torch.uint8) >> plane.shift) & ((1 << plane.bits) - 1)
    return joined(part.reshape(codes.shape[0], -1, 8 // plane.bits, plane.stride), plane.bits, dim=2).flatten(1)


def joined(values: Tensor, bits: int, dim: int = -1) -> Tensor:
    """The numbers of ``bits`` bits along ``dim`` as one number, the first in its lowest bits."""
    return reduce(or_, (value << (bits * k) for k, value in enumerate(values.unbind(dim))))


def little_endian(values: Tensor, count: int) -> Tensor:
    """Integers [blocks, n] as ``count`` bytes each: uint8 [blocks, n · count]."""
    wide = values.to(torch.int64).unsqueeze(-1)
    shifts = torch.arange(0, 8 * count, 8, device=values.device)
    return ((wide >> shifts) & 255).to(torch.uint8).flatten(1)


def six_bit_pairs(scales: Tensor, minima: Tensor) -> Tensor:
    """8 scales and 8 minima 0 … 63 as :func:`layout.six_bit_scales` reads them: uint8 [blocks, 12]."""
    scales, minima = scales.to(torch.uint8), minima.to(torch.uint8)
    low, rest = scales[:, :4], scales[:, 4:]
    low_min, rest_min = minima[:, :4], minima[:, 4:]
    return torch.cat(
        [low | (rest >> 4) << 6, low_min | (rest_min >> 4) << 6, (rest & 15) | (rest_min & 15) << 4], dim=1
    )


def signed_six_bits(scales: Tensor) -> Tensor:
    """16 scales −32 … 31 as :func:`layout.signed_six_bit_scales` reads them: uint8 [blocks, 12]."""
    stored = (scales + 32).to(torch.uint8)
    low = stored[:, :8] & 15 | (stored[:, 8:] & 15) << 4
    return torch.cat([low, joined((stored >> 4).view(-1, 4, 4), 2, dim=1)], dim=1)


def trits(digits: Tensor, count: int) -> Tensor:
    """Digits 0, 1, 2 [blocks, ≤ 5 · count], ``count`` apart, as the base-3 fractions of TQ1_0: uint8 [blocks, count].

    Five digits are a number below 3⁵, stored as ⌈256 · number / 243⌉, so that multiplying by 3 moves a digit above the
    byte.
    """
    rows = digits.view(digits.shape[0], -1, count).to(torch.int32)
    number = torch.zeros_like(rows[:, 0])
    for k in range(5):
        number = 3 * number + (rows[:, k] if k < rows.shape[1] else 0)
    return ((256 * number + 242) // 243).to(torch.uint8)
