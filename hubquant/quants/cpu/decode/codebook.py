"""IQ1, IQ2 and IQ3: codes of four or eight weights at once, whose magnitudes are those of a codebook's entry.

``grid`` is uint8 [entries, 4 or 8]; signs are bits, set where a weight is negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.block import from_half
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.reading import bits, decoded, half, load_entries, word16, word32
from hubquant.quants.cpu.vector.simd import Pointer, Vector, lane_numbers, splat, splat_int, store, to_float, where
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_HALF, _QUARTER, _EIGHTH = _f(0.5), _f(0.25), _f(0.125)
_XS_SCALES = TYPES["IQ2_XS"].offset("scales")
_2_QS, _2_QH, _2_SCALES = (TYPES["IQ2_S"].offset(name) for name in ("qs", "qh", "scales"))
_2_SIGNS = _2_QS + 32
_3_QS, _3_QH, _3_SIGNS, _3_SCALES = (TYPES["IQ3_S"].offset(name) for name in ("qs", "qh", "signs", "scales"))
_1_QS, _1_QH = TYPES["IQ1_S"].offset("qs"), TYPES["IQ1_S"].offset("qh")
_M_QH, _M_SCALES = TYPES["IQ1_M"].offset("qh"), TYPES["IQ1_M"].offset("scales")


@primitive
def _signs(seven: int) -> int:
    """Seven signs, and the eighth that makes the number of negative ones even."""
    parity = seven ^ seven >> 4
    parity ^= parity >> 2
    return seven | ((parity ^ parity >> 1) & 1) << 7


@primitive
def _both_signs(first: int, second: int) -> int:
    """Those of 16 weights, of seven bits for each eight."""
    return _signs(first) | _signs(second) << 8


@primitive
def _nibble(block: Pointer, at: int, i: int) -> int:
    return (int(block[at + i // 2]) >> 4 * (i % 2)) & 15


@primitive
def _put(out: Pointer, at: int, scale: Vector, magnitudes: Vector, signs: int) -> None:
    store(out, at, (scale * to_float(magnitudes)) * where(bits(signs) != 0, splat(_f(-1)), splat(_f(1))))


@primitive
def _fine(d: Vector, scale: int) -> Vector:
    return d * (_HALF + to_float(splat_int(scale)))


@primitive
def _iq2_xxs(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (½ + scale) / 4 · magnitude, for each 32 weights four bytes of codes, four of signs and the scale"""
    d = half(block, 0)
    for group in range(8):
        at = 2 + 8 * group
        rest = word32(block, at + 4)
        scale = _fine(d, rest >> 28) * _QUARTER
        for k in range(2):
            entries = load_entries(grid, (int(block[at + 2 * k]), int(block[at + 2 * k + 1])))
            pair = rest >> 14 * k
            signs = _both_signs(pair & 127, (pair >> 7) & 127)
            _put(out, 32 * group + 16 * k, scale, entries, signs)


@primitive
def _iq2_xs(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (½ + scale) / 4 · magnitude; nine bits of a code, seven of signs"""
    d = half(block, 0)
    for group in range(16):
        first, second = word16(block, 2 + 4 * group), word16(block, 4 + 4 * group)
        scale = _fine(d, _nibble(block, _XS_SCALES, group)) * _QUARTER
        entries = load_entries(grid, (first & 511, second & 511))
        _put(out, 16 * group, scale, entries, _both_signs(first >> 9, second >> 9))


@primitive
def _iq2_s(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (½ + scale) / 4 · magnitude"""
    d = half(block, 0)
    for group in range(16):
        tops = int(block[_2_QH + group // 2]) >> 4 * (group % 2)
        at = _2_QS + 2 * group
        entries = load_entries(grid, (int(block[at]) | (tops & 3) << 8, int(block[at + 1]) | ((tops >> 2) & 3) << 8))
        scale = _fine(d, _nibble(block, _2_SCALES, group)) * _QUARTER
        _put(out, 16 * group, scale, entries, word16(block, _2_SIGNS + 2 * group))


@primitive
def _iq3_xxs(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (½ + scale) / 2 · magnitude"""
    d = half(block, 0)
    for group in range(8):
        rest = word32(block, 66 + 4 * group)
        scale = _fine(d, rest >> 28) * _HALF
        for k in range(2):
            at = 2 + 8 * group + 4 * k
            indices = int(block[at]), int(block[at + 1]), int(block[at + 2]), int(block[at + 3])
            pair = rest >> 14 * k
            signs = _both_signs(pair & 127, (pair >> 7) & 127)
            _put(out, 32 * group + 16 * k, scale, load_entries(grid, indices), signs)


@primitive
def _iq3_s(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (1 + 2 · scale) · magnitude, the scale for each 32 weights"""
    d = half(block, 0)
    for group in range(16):
        tops = int(block[_3_QH + group // 2]) >> 4 * (group % 2)
        at = _3_QS + 4 * group
        indices = (
            int(block[at]) | (tops & 1) << 8,
            int(block[at + 1]) | (tops & 2) << 7,
            int(block[at + 2]) | (tops & 4) << 6,
            int(block[at + 3]) | (tops & 8) << 5,
        )
        scale = d * to_float(splat_int(1 + 2 * _nibble(block, _3_SCALES, group // 2)))
        _put(out, 16 * group, scale, load_entries(grid, indices), word16(block, _3_SIGNS + 2 * group))


@primitive
def _iq1_s(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (2 · scale + 1) · (level − 1 ± ⅛), all three for each 32 weights"""
    d = half(block, 0)
    for group in range(8):
        rest = word16(block, _1_QH + 2 * group)
        scale = d * to_float(splat_int(2 * ((rest >> 12) & 7) + 1))
        shift = splat(_EIGHTH if rest < 0x8000 else -_EIGHTH)
        for k in range(2):
            at, tops = _1_QS + 4 * group + 2 * k, rest >> 6 * k
            entries = load_entries(grid, (int(block[at]) | (tops & 7) << 8, int(block[at + 1]) | (tops >> 3 & 7) << 8))
            store(out, 32 * group + 16 * k, (to_float(entries - 1) + shift) * scale)


@primitive
def _iq1_m(block: Pointer, out: Pointer, grid: Array) -> None:
    """d · (2 · scale + 1) · (level − 1 ± ⅛), the sign for each 8 weights; d is scattered over the words of scales"""
    at = _M_SCALES
    words = word16(block, at), word16(block, at + 2), word16(block, at + 4), word16(block, at + 6)
    d = from_half(splat_int(words[0] >> 12 | words[1] >> 8 & 0xF0 | words[2] >> 4 & 0xF00 | words[3] & 0xF000))
    lane = lane_numbers()
    for group in range(16):
        three = (word16(block, _M_SCALES + 2 * (group // 4)) >> 3 * (group % 4)) & 7
        scale = d * to_float(splat_int(2 * three + 1))
        tops = int(block[_M_QH + group])
        entries = load_entries(
            grid, (int(block[2 * group]) | (tops & 7) << 8, int(block[2 * group + 1]) | (tops >> 4 & 7) << 8)
        )
        negative = where(lane < 8, splat_int(tops & 8), splat_int(tops >> 4 & 8)) != 0
        shift = where(negative, splat(-_EIGHTH), splat(_EIGHTH))
        store(out, 16 * group, (to_float(entries - 1) + shift) * scale)


iq2_xxs, iq2_xs, iq2_s = (
    decoded("iq2_xxs", "IQ2_XXS", _iq2_xxs),
    decoded("iq2_xs", "IQ2_XS", _iq2_xs),
    decoded("iq2_s", "IQ2_S", _iq2_s),
)
iq3_xxs, iq3_s = decoded("iq3_xxs", "IQ3_XXS", _iq3_xxs), decoded("iq3_s", "IQ3_S", _iq3_s)
iq1_s, iq1_m = decoded("iq1_s", "IQ1_S", _iq1_s), decoded("iq1_m", "IQ1_M", _iq1_m)
