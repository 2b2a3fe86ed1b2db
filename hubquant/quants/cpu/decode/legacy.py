"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and the types of activations: one scale (and minimum) per block."""

from __future__ import annotations

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.reading import bits, decoded, half, nibbles, signed_bytes, single, word16
from hubquant.quants.cpu.vector.simd import Pointer, store, to_float
from hubquant.quants.formats import TYPES


def _signed(type: str, levels: int) -> Kernel:
    """d · (code − levels)"""
    qs = TYPES[type].offset("qs")
    fifth = type == "Q5_0"
    qh = TYPES[type].offset("qh") if fifth else 0

    @primitive
    def values(block: Pointer, out: Pointer) -> None:
        d = half(block, 0)
        for upper in range(2):
            code = nibbles(block, qs, upper)
            if fifth:
                code = code | bits(word16(block, qh + 2 * upper)) << 4
            store(out, 16 * upper, to_float(code - levels) * d)

    return decoded(type.lower(), type, values)


def _affine(type: str) -> Kernel:
    """d · code + m"""
    qs, m = TYPES[type].offset("qs"), TYPES[type].offset("m")
    fifth = type == "Q5_1"
    qh = TYPES[type].offset("qh") if fifth else 0

    @primitive
    def values(block: Pointer, out: Pointer) -> None:
        d, minimum = half(block, 0), half(block, m)
        for upper in range(2):
            code = nibbles(block, qs, upper)
            if fifth:
                code = code | bits(word16(block, qh + 2 * upper)) << 4
            store(out, 16 * upper, to_float(code) * d + minimum)

    return decoded(type.lower(), type, values)


def _bytes(type: str) -> Kernel:
    """d · code"""
    size, qs, wide = TYPES[type].block_size, TYPES[type].offset("qs"), type == "Q8_K"

    @primitive
    def values(block: Pointer, out: Pointer) -> None:
        d = single(block, 0) if wide else half(block, 0)
        for i in range(0, size, 16):
            store(out, i, to_float(signed_bytes(block, qs + i)) * d)

    return decoded(type.lower(), type, values)


q4_0, q5_0 = _signed("Q4_0", 8), _signed("Q5_0", 16)
q4_1, q5_1 = _affine("Q4_1"), _affine("Q5_1")
q8_0, q8_1, q8_k = _bytes("Q8_0"), _bytes("Q8_1"), _bytes("Q8_K")
