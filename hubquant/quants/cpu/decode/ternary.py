"""TQ1_0, TQ2_0, Q1_0 and Q2_0: a scale, and codes for −1, 0, 1 (and 2)."""

from __future__ import annotations

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.reading import bits, decoded, half, load_bytes, word16, word32
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    lane_numbers,
    multiply_int,
    splat_int,
    store,
    to_float,
    where,
)
from hubquant.quants.formats import TYPES

_T1_QH, _T1_D = TYPES["TQ1_0"].offset("qh"), TYPES["TQ1_0"].offset("d")
_T2_D = TYPES["TQ2_0"].offset("d")
_1_QS, _2_QS = TYPES["Q1_0"].offset("qs"), TYPES["Q2_0"].offset("qs")
_1_SIZE, _2_SIZE = TYPES["Q1_0"].block_size, TYPES["Q2_0"].block_size


@primitive
def _trit(byte: Vector, power: Vector) -> Vector:
    """The digit of −1 … 1 that times ``power`` = 3ᵏ brings to the front: a byte holds five, as a fraction of 256."""
    return (multiply_int(multiply_int(byte, power) & 255, 3) >> 8) - 1


@primitive
def _tq1_0(block: Pointer, out: Pointer) -> None:
    d = half(block, _T1_D)
    power = 1
    for k in range(5):
        for i in range(0, 32, 16):
            store(out, 32 * k + i, to_float(_trit(load_bytes(block, i), splat_int(power))) * d)
        store(out, 160 + 16 * k, to_float(_trit(load_bytes(block, 32), splat_int(power))) * d)
        power *= 3
    lane = lane_numbers()
    last = (splat_int(word32(block, _T1_QH)) >> ((lane & 3) << 3)) & 255
    powers = where(lane < 4, splat_int(1), where(lane < 8, splat_int(3), where(lane < 12, splat_int(9), 27)))
    store(out, 240, to_float(_trit(last, powers)) * d)


@primitive
def _tq2_0(block: Pointer, out: Pointer) -> None:
    d = half(block, _T2_D)
    for group in range(16):
        codes = (load_bytes(block, group // 8 * 32 + group % 2 * 16) >> 2 * (group % 8 // 2)) & 3
        store(out, 16 * group, to_float(codes - 1) * d)


@primitive
def _q1_0(block: Pointer, out: Pointer) -> None:
    d = half(block, 0)
    for i in range(0, _1_SIZE, 16):
        store(out, i, where(bits(word16(block, _1_QS + i // 8)) != 0, d, -d))


@primitive
def _q2_0(block: Pointer, out: Pointer) -> None:
    d = half(block, 0)
    for i in range(0, _2_SIZE, 16):
        codes = (splat_int(word32(block, _2_QS + i // 4)) >> (lane_numbers() << 1)) & 3
        store(out, i, to_float(codes - 1) * d)


tq1_0, tq2_0 = decoded("tq1_0", "TQ1_0", _tq1_0), decoded("tq2_0", "TQ2_0", _tq2_0)
q1_0, q2_0 = decoded("q1_0", "Q1_0", _q1_0), decoded("q2_0", "Q2_0", _q2_0)
