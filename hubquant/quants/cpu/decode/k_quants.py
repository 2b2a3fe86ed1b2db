"""Q2_K to Q6_K: blocks of 256 weights, whose sub-blocks of 16 or 32 have integer scales (and minima).

What bytes of scales hold is told in :mod:`hubquant.quants.layout`.
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.reading import decoded, half, load_bytes, nibbles, word16
from hubquant.quants.cpu.vector.simd import Pointer, Vector, lanes, splat_int, store, to_float, vectors
from hubquant.quants.formats import FORK_TYPES, TYPES

_2, _3, _6 = TYPES["Q2_K"], TYPES["Q3_K"], TYPES["Q6_K"]
_2_QS, _2_D, _2_DMIN = (_2.offset(name) for name in ("qs", "d", "dmin"))
_3_QS, _3_SCALES, _3_D = (_3.offset(name) for name in ("qs", "scales", "d"))
_6_QH, _6_SCALES, _6_D = (_6.offset(name) for name in ("qh", "scales", "d"))
_INDEX, _OUTLIER, _COUNT = (FORK_TYPES["Q3_K_HIFI"].offset(name) for name in ("index", "outlier", "count"))


@primitive
def _pairs(block: Pointer, at: int, group: int) -> Vector:
    """The two bits of 16 weights, ``group`` of those from byte ``at`` on."""
    return (load_bytes(block, at + group // 8 * 32 + group % 2 * 16) >> 2 * (group % 8 // 2)) & 3


@primitive
def _q2_k(block: Pointer, out: Pointer) -> None:
    """d · scale · code − dmin · minimum"""
    d, dmin = half(block, _2_D), half(block, _2_DMIN)
    for group in range(16):
        both = int(block[group])
        scale, minimum = d * to_float(splat_int(both & 15)), dmin * to_float(splat_int(both >> 4))
        store(out, 16 * group, to_float(_pairs(block, _2_QS, group)) * scale - minimum)


@primitive
def _q3_k(block: Pointer, out: Pointer) -> None:
    """d · scale · (code − 4)"""
    d = half(block, _3_D)
    for group in range(16):
        low = (int(block[_3_SCALES + group % 8]) >> group // 8 * 4) & 15
        top = (int(block[_3_SCALES + 8 + group % 4]) >> group // 4 * 2) & 3
        scale = d * to_float(splat_int((low | top << 4) - 32))
        third = (load_bytes(block, group % 2 * 16) >> group // 2) & 1
        code = (_pairs(block, _3_QS, group) | third << 2) - 4
        store(out, 16 * group, to_float(code) * scale)


@primitive
def _q3_k_hifi(block: Pointer, out: Pointer) -> None:
    """A Q3_K block, and eight of its weights in half precision where those are not 0."""
    _q3_k(block, out)
    held = vectors(1)
    for k in range(_OUTLIER - _INDEX):
        if word16(block, _OUTLIER + 2 * k) & 0x7FFF:
            held[0] = half(block, _OUTLIER + 2 * k)
            out[int(block[_INDEX + k])] = lanes(held)[0]


def _six_bits(type: str) -> Kernel:
    """d · scale · code − dmin · minimum of Q4_K and Q5_K"""
    dmin, scales, qs = (TYPES[type].offset(name) for name in ("dmin", "scales", "qs"))
    fifth = type == "Q5_K"
    qh = TYPES[type].offset("qh") if fifth else 0

    @primitive
    def values(block: Pointer, out: Pointer) -> None:
        d, of_minima = half(block, 0), half(block, dmin)
        for group in range(8):
            first, second = int(block[scales + group % 4]), int(block[scales + 4 + group % 4])
            if group < 4:
                scale, minimum = first & 63, second & 63
            else:
                rest = int(block[scales + 4 + group])
                scale, minimum = rest & 15 | first >> 6 << 4, rest >> 4 | second >> 6 << 4
            factor, shift = d * to_float(splat_int(scale)), of_minima * to_float(splat_int(minimum))
            for i in range(0, 32, 16):
                code = nibbles(block, qs + group // 2 * 32 + i, group % 2)
                if fifth:
                    code = code | ((load_bytes(block, qh + i) >> group) & 1) << 4
                store(out, 32 * group + i, to_float(code) * factor - shift)

    return decoded(type.lower(), type, values)


@primitive
def _q6_k(block: Pointer, out: Pointer) -> None:
    """d · scale · (code − 32)"""
    d = half(block, _6_D)
    for group in range(16):
        scale = d * to_float(splat_int(np.int8(block[_6_SCALES + group])))
        low = nibbles(block, group // 8 * 64 + group % 4 * 16, group // 4 % 2)
        code = (low | _pairs(block, _6_QH, group) << 4) - 32
        store(out, 16 * group, to_float(code) * scale)


q2_k, q3_k, q6_k = decoded("q2_k", "Q2_K", _q2_k), decoded("q3_k", "Q3_K", _q3_k), decoded("q6_k", "Q6_K", _q6_k)
q4_k, q5_k = _six_bits("Q4_K"), _six_bits("Q5_K")
q3_k_hifi = decoded("q3_k_hifi", "Q3_K_HIFI", _q3_k_hifi)
