"""Scales and minima as blocks store them: taken from their bytes, and put into bytes with the codes.

Super-scales are float32 [blocks, 2], d and dmin, 1 where a type has none; ``scales`` and ``minima`` float32 [blocks,
groups] are whole numbers, real ones that half precision holds, or codes of scales; a minimum is what is subtracted.
``levels`` float32 [blocks, block_size] are what codes stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hubquant.quants import layout, packing
from hubquant.quants.formats import TypeFormat
from hubquant.quants.levels import FLOAT4, IQ4

_FLOAT4_CODES = (15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7)

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Scales:
    """Of blocks, in the order of their weights."""

    supers: Tensor
    scales: Tensor
    minima: Tensor


@dataclass(frozen=True)
class Storage:
    """``read`` takes the members of blocks (:func:`layout.members`) apart, ``numbers`` makes those that hold no codes
    of them; ``codes`` are the numbers of levels.
    """

    read: Callable[[Parts], Scales]
    numbers: Callable[[Scales], dict[str, Tensor]]
    codes: Callable[[Tensor], Tensor]


def blocks(fmt: TypeFormat, storage: Storage, scales: Scales, levels: Tensor) -> Tensor:
    """uint8 [blocks, block_bytes]"""
    codes = storage.codes(levels)
    numbers = storage.numbers(scales)
    if fmt.name == "TQ1_0":
        first, second, rest = codes[:, :160], codes[:, 160:240], codes[:, 240:]
        numbers |= {
            "qs": torch.cat([packing.trits(first, 32), packing.trits(second, 16)], dim=1),
            "qh": packing.trits(rest, 4),
        }
    elif fmt.name == "Q8_0":
        numbers["qs"] = levels
    return packing.pack(fmt, numbers, codes)


# ---- codes ----------------------------------------------------------------------------------------------------------


def counted(low: float, distance: float = 1) -> Callable[[Tensor], Tensor]:
    """Evenly spaced levels from ``low`` on."""
    return lambda levels: ((levels - low) / distance).to(torch.int16)


def iq4_codes(levels: Tensor) -> Tensor:
    return torch.bucketize(levels.contiguous(), levels.new_tensor(IQ4))


def float4_codes(levels: Tensor) -> Tensor:
    """Of twice the numbers of E2M1; zero is positive."""
    places = levels.new_tensor([2 * level for level in FLOAT4])
    return torch.tensor(_FLOAT4_CODES, device=levels.device)[torch.bucketize(levels, places)]


# ---- super-scales with whole scales ---------------------------------------------------------------------------------


def _pairs(p: Parts, scales: Tensor, minima: Tensor) -> Scales:
    supers = torch.cat([p["d"], p["dmin"]], dim=1).float()
    return Scales(supers, scales.float(), minima.float())


def signed(p: Parts, scales: Tensor) -> Scales:
    supers = torch.cat([p["d"].float(), torch.ones_like(p["d"], dtype=torch.float32)], dim=1)
    return Scales(supers, scales.float(), torch.zeros_like(scales, dtype=torch.float32))


def read_q2_k(p: Parts) -> Scales:
    return _pairs(p, p["scales"] & 15, p["scales"] >> 4)


def q2_k_numbers(s: Scales) -> dict[str, Tensor]:
    packed = s.scales.to(torch.uint8) | s.minima.to(torch.uint8) << 4
    return {"d": s.supers[:, 0], "dmin": s.supers[:, 1], "scales": packed}


def read_six_bits(p: Parts) -> Scales:
    return _pairs(p, *layout.six_bit_scales(p["scales"]))


def six_bit_numbers(s: Scales) -> dict[str, Tensor]:
    return {"d": s.supers[:, 0], "dmin": s.supers[:, 1], "scales": packing.six_bit_pairs(s.scales, s.minima)}


def read_q3_k(p: Parts) -> Scales:
    return signed(p, layout.signed_six_bit_scales(p["scales"]))


def q3_k_numbers(s: Scales) -> dict[str, Tensor]:
    return {"d": s.supers[:, 0], "scales": packing.signed_six_bits(s.scales)}


def read_q6_k(p: Parts) -> Scales:
    return signed(p, p["scales"])


def q6_k_numbers(s: Scales) -> dict[str, Tensor]:
    return {"d": s.supers[:, 0], "scales": s.scales}


def read_iq4_xs(p: Parts) -> Scales:
    """The scale −32 … 31 of group j: its low bits are nibble j of ``scales_l``, the top two bits 2j of ``scales_h``."""
    low = torch.stack([p["scales_l"] & 15, p["scales_l"] >> 4], dim=2).flatten(1).int()
    high = (p["scales_h"].int() >> torch.arange(0, 16, 2, device=low.device)) & 3
    return signed(p, (low | high << 4) - 32)


def iq4_xs_numbers(s: Scales) -> dict[str, Tensor]:
    stored = (s.scales + 32).to(torch.int32)
    low = packing.joined((stored & 15).view(-1, 4, 2), 4).to(torch.uint8)
    return {"d": s.supers[:, 0], "scales_h": packing.joined(stored >> 4, 2), "scales_l": low}


# ---- scales alone ---------------------------------------------------------------------------------------------------


def alone(scales: Tensor, minima: Tensor | None = None) -> Scales:
    scales = scales.float()
    supers = scales.new_ones(len(scales), 2)
    return Scales(supers, scales, torch.zeros_like(scales) if minima is None else minima)


def read_d(p: Parts) -> Scales:
    return alone(p["d"])


def d_numbers(s: Scales) -> dict[str, Tensor]:
    return {"d": s.scales}


def read_line(p: Parts) -> Scales:
    return alone(p["d"], -p["m"].float())


def line_numbers(s: Scales) -> dict[str, Tensor]:
    return {"d": s.scales, "m": -s.minima}


def read_mxfp4(p: Parts) -> Scales:
    return alone(p["e"])


def mxfp4_numbers(s: Scales) -> dict[str, Tensor]:
    return {"e": s.scales}


def read_nvfp4(p: Parts) -> Scales:
    return alone(p["scales"])


def nvfp4_numbers(s: Scales) -> dict[str, Tensor]:
    return {"scales": s.scales}
