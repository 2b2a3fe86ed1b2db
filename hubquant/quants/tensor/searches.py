"""The search of every type: from the weights of its blocks to their bytes.

``x`` [blocks, n] are float32 weights, ``w`` [blocks, n] that of each squared error, ``_weighted`` says whether w is
made from importance; the result is uint8 [blocks, block_bytes] on the device of ``x``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hubquant.quants import packing
from hubquant.quants.formats import TypeFormat
from hubquant.quants.levels import FLOAT4, IQ4
from hubquant.quants.tensor import affine, scaled
from hubquant.quants.tensor.arithmetic import extreme, growth, keep_better, ramp, reciprocal, spread, to_half, total
from hubquant.quants.tensor.pairs import best_pairs
from hubquant.quants.tensor.scaled import Even, Uneven
from hubquant.quants.tensor.signed import best_scales

_TWO_BIT_SHIFTS = tuple(0.5 * 1.17**k - 1 for k in range(28))
_LINE_SHIFTS = ramp(-0.9, 0.05, 37)
_SIX_BITS = Even(-32, 31)
_SHARE = 0.5  # of the shrinkage that d makes up for with 3 bits and less
_IQ4 = Uneven(IQ4, tuple(range(16)))
_FLOAT4 = Uneven(tuple(2 * level for level in FLOAT4), (15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7))


def _signed(levels: Even, steps: int, x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    d = scaled.fast_half_scale(x, w, extreme(x) / levels.low, levels, spread(1.2, steps))
    return packing.pack(fmt, {"d": d}, scaled.codes_of(x, d, levels))


q4_0, q5_0 = partial(_signed, Even(-8, 7), 10), partial(_signed, Even(-16, 15), 9)


def q8_0(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """Codes −127 … 127 of a scale for 32 weights."""
    levels = Even(-127, 127)
    d = scaled.half_scale(x, w, extreme(x).abs() / 127, levels, spread(1.2, 5))
    return packing.pack(fmt, {"d": d, "qs": scaled.codes_of(x, d, levels) - 127})


def _line(top: int, x: Tensor, w: Tensor, weighted: bool, fmt: TypeFormat) -> Tensor:
    if weighted:
        scale, low = affine.line_search(x, w, top, _LINE_SHIFTS)
    else:
        low = x.amin(-1)
        scale = (x.amax(-1) - low) / top
    d, m = affine.half_line(x, w, scale, low, top, spread(0.9, 7 if weighted else 13))
    return packing.pack(fmt, {"d": d, "m": m}, affine.codes_of(x, d, m, top))


q4_1, q5_1 = partial(_line, 15), partial(_line, 31)


def _pairs(
    groups: int,
    top: int,
    most: int,
    ends: tuple[float, ...],
    reach: float,
    x: Tensor,
    w: Tensor,
    _weighted: bool,
    fmt: TypeFormat,
) -> Tensor:
    """Q2_K, Q4_K, Q5_K: integer scales and minima of sub-blocks."""
    shape = (x.shape[0], groups, -1)
    x, w = x.view(shape), w.view(shape)
    d, dmin, scales, minima = best_pairs(x, w, top, most, ends, reach)
    scale, low = d.unsqueeze(-1) * scales, -(dmin.unsqueeze(-1) * minima)
    codes = affine.codes_of(x, scale, low, top)
    if most == 15:
        grown = growth(_SHARE, x, w, scale.unsqueeze(-1) * codes + low.unsqueeze(-1))
        d, dmin = to_half(d * grown), to_half(dmin * grown)
        packed = scales.to(torch.uint8) | minima.to(torch.uint8) << 4
    else:
        packed = packing.six_bit_pairs(scales, minima)
    return packing.pack(fmt, {"d": d, "dmin": dmin, "scales": packed}, codes.flatten(1))


q2_k = partial(_pairs, 16, 3, 15, ramp(-0.45, 0.35, 4), 0.1)
q4_k = partial(_pairs, 8, 15, 63, ramp(-1, 0.5, 5), 0.03)
q5_k = partial(_pairs, 8, 31, 63, ramp(-1, 0.5, 5), 0.03)


def q3_k(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """Integer scales of sub-blocks of 16."""
    x, w = x.view(-1, 16, 16), w.view(-1, 16, 16)
    levels = Even(-4, 3)
    d, scales = best_scales(x, w, levels, _SIX_BITS, ramp(-0.8, 0.52, 6), rounds=1)
    scale = d.unsqueeze(-1) * scales
    codes = scaled.codes_of(x, scale, levels)
    d = to_half(d * growth(_SHARE, x, w, scale.unsqueeze(-1) * (codes + levels.low)))
    return packing.pack(fmt, {"d": d, "scales": packing.signed_six_bits(scales)}, codes.flatten(1))


def q6_k(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """Integer scales of sub-blocks of 16."""
    x, w = x.view(-1, 16, 16), w.view(-1, 16, 16)
    levels = Even(-32, 31)
    d, scales = best_scales(x, w, levels, Even(-128, 127), ramp(-5, 1.75, 5), rounds=0)
    codes = scaled.codes_of(x, d.unsqueeze(-1) * scales, levels)
    return packing.pack(fmt, {"d": d, "scales": scales}, codes.flatten(1))


def iq4_nl(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """16 uneven levels of a scale for 32 weights."""
    d = scaled.half_scale(x, w, extreme(x) / _IQ4.low, _IQ4, spread(24.0, 25))
    return packing.pack(fmt, {"d": d}, scaled.codes_of(x, d, _IQ4))


def iq4_xs(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """The same levels; whole scales −32 … 31 of 8 sub-blocks of 32, times d."""
    x, w = x.view(-1, 8, 32), w.view(-1, 8, 32)
    scale = scaled.search_scale(x, w, extreme(x) / _IQ4.low, _IQ4, spread(24.0, 25))
    best: tuple[Tensor, ...] = ()
    for end in (-32.0, -31.0, -30.0, -29.0, -28.0, -26.0):
        d = to_half(extreme(scale) / end)
        found = scaled.refine_scales(x, w, d, scale, _IQ4, _SIX_BITS, reach=6, rounds=4)
        best = keep_better(found[0] < best[0], found, best) if best else found
    _, d, scales = best
    stored = (scales + 32).to(torch.int32)
    low = packing.joined((stored & 15).view(-1, 4, 2), 4)
    high = packing.joined(stored >> 4, 2)
    codes = scaled.codes_of(x, d.unsqueeze(-1) * scales, _IQ4)
    return packing.pack(fmt, {"d": d, "scales_h": high, "scales_l": low}, codes.flatten(1))


def _best_scale(x: Tensor, w: Tensor, candidates: list[Tensor], decode: Callable[[Tensor], Tensor]) -> Tensor:
    """Of stored scales, whatever they ``decode`` to, the one with the least error."""
    best = candidates[0]
    least = scaled.error_of(x, w, decode(best), _FLOAT4)
    for candidate in candidates[1:]:
        error = scaled.error_of(x, w, decode(candidate), _FLOAT4)
        least, best = keep_better(error < least, (error, candidate), (least, best))
    return best


def half_of_power(code: Tensor) -> Tensor:
    """The half of 2^(code − 127), as MXFP4 stores its scales."""
    return torch.exp2(code - 128)


def mxfp4(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """4-bit floats of a power of two for 32 weights: the one that suits the largest weight, or a neighbour."""
    magnitude = extreme(x).abs()
    middle = torch.floor(torch.log2(magnitude.clamp(min=1e-38))) + 125
    middle = torch.where(magnitude > 0, middle, 0)
    e = _best_scale(x, w, [(middle + k).clamp(2, 254) for k in (0, -1, 1)], half_of_power)
    return packing.pack(fmt, {"e": e}, scaled.codes_of(x, half_of_power(e), _FLOAT4))


def half_of_e4m3(code: Tensor) -> Tensor:
    """The half of an unsigned float with 4 exponent and 3 mantissa bits, as NVFP4 stores its scales."""
    exponent, mantissa = torch.div(code, 8, rounding_mode="floor"), torch.remainder(code, 8)
    return torch.where(exponent == 0, mantissa / 1024, (1 + mantissa / 8) * torch.exp2(exponent - 8))


def nvfp4(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """4-bit floats of an 8-bit float for each 16 weights: the one that suits the largest weight, or one near it."""
    x, w = x.view(-1, 4, 16), w.view(-1, 4, 16)
    known = half_of_e4m3(torch.arange(127.0, device=x.device))
    middle = torch.bucketize(extreme(x).abs() / 12, known).float()
    scales = _best_scale(x, w, [(middle + k).clamp(0, 126) for k in range(-4, 8)], half_of_e4m3)
    codes = scaled.codes_of(x, half_of_e4m3(scales), _FLOAT4)
    return packing.pack(fmt, {"scales": scales}, codes.flatten(1))


def _ternary_scale(x: Tensor, w: Tensor) -> Tensor:
    """The best d for levels −d, 0, d: those that are not 0 are the largest weights, so by least squares
    d = Σ w·|x| / Σ w over some number of the largest, that with the greatest gain (Σ w·|x|)² / Σ w.
    """
    magnitude, order = x.abs().sort(-1, descending=True)
    mass = w.gather(-1, order)
    sum_x, sum_w = (mass * magnitude).cumsum(-1), mass.cumsum(-1)
    gain = torch.where(sum_w > 0, sum_x * sum_x / sum_w, 0)
    count = gain.argmax(-1, keepdim=True)
    return to_half((sum_x.gather(-1, count) * reciprocal(sum_w.gather(-1, count))).squeeze(-1))


def _grown(x: Tensor, w: Tensor, d: Tensor, levels: Even) -> tuple[Tensor, Tensor]:
    """d made larger for the codes that it gives, and these."""
    codes = scaled.codes_of(x, d, levels)
    return to_half(d * growth(_SHARE, x, w, d.unsqueeze(-1) * (codes + levels.low))), codes


def tq2_0(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """Levels −d, 0, d."""
    d, codes = _grown(x, w, _ternary_scale(x, w), Even(-1, 1))
    return packing.pack(fmt, {"d": d}, codes)


def tq1_0(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """The codes of TQ2_0, five in a byte."""
    d, codes = _grown(x, w, _ternary_scale(x, w), Even(-1, 1))
    first, second, rest = codes[:, :160], codes[:, 160:240], codes[:, 240:]
    qs = torch.cat([packing.trits(first, 32), packing.trits(second, 16)], dim=1)
    return packing.pack(fmt, {"d": d, "qs": qs, "qh": packing.trits(rest, 4)})


def q1_0(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """Signs, and the mean magnitude."""
    return packing.pack(fmt, {"d": to_half(total(w * x.abs()) / total(w))}, x >= 0)


def q2_0(x: Tensor, w: Tensor, _weighted: bool, fmt: TypeFormat) -> Tensor:
    """Levels −1, 0, 1, 2."""
    levels = Even(-1, 2)
    d, codes = _grown(x, w, scaled.half_scale(x, w, extreme(x), levels, _TWO_BIT_SHIFTS), levels)
    return packing.pack(fmt, {"d": d}, codes)
