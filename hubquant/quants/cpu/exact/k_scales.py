"""How Q3_K, Q4_K and Q5_K pack the 6-bit scales of their sub-blocks into 12 bytes."""

from __future__ import annotations

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import Pointer, put_byte, to_int
from hubquant.quants.formats import TYPES

_SIGNED = TYPES["Q3_K"].offset("scales")
_PAIRS = TYPES["Q4_K"].offset("scales")  # the same in Q5_K


@primitive
def put_six_bit_scales(block: Pointer, scales: Pointer, minima: Pointer) -> None:
    """8 scales and 8 minima 0 … 63 as ``layout.six_bit_scales`` reads them."""
    for j in range(4):
        scale, rest = to_int(scales[j]), to_int(scales[j + 4])
        low, low_rest = to_int(minima[j]), to_int(minima[j + 4])
        put_byte(block, _PAIRS + j, scale | (rest >> 4) << 6)
        put_byte(block, _PAIRS + 4 + j, low | (low_rest >> 4) << 6)
        put_byte(block, _PAIRS + 8 + j, rest & 15 | (low_rest & 15) << 4)


@primitive
def put_signed_six_bit_scales(block: Pointer, scales: Pointer) -> None:
    """16 scales, 0 … 63 for −32 … 31, as ``layout.signed_six_bit_scales`` reads them."""
    for j in range(8):
        put_byte(block, _SIGNED + j, to_int(scales[j]) & 15 | (to_int(scales[j + 8]) & 15) << 4)
    for j in range(4):
        tops = to_int(scales[j]) >> 4
        for k in range(1, 4):
            tops = tops | (to_int(scales[j + 4 * k]) >> 4) << (2 * k)
        put_byte(block, _SIGNED + 8 + j, tops)
