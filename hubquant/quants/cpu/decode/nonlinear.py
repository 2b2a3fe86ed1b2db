"""IQ4_NL, IQ4_XS, MXFP4 and NVFP4: 4-bit codes for 16 unevenly spaced levels, looked up in a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.reading import decoded, half, look_up, nibbles, word16, word32
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    from_bits,
    lane_numbers,
    splat_int,
    store,
    to_float,
    where,
)
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_NL_QS, _MX_QS, _NV_QS = (TYPES[name].offset("qs") for name in ("IQ4_NL", "MXFP4", "NVFP4"))
_XS_HIGH, _XS_LOW, _XS_QS = (TYPES["IQ4_XS"].offset(name) for name in ("scales_h", "scales_l", "qs"))


@primitive
def _iq4_nl(block: Pointer, out: Pointer, levels: Array) -> None:
    """d · level"""
    d = half(block, 0)
    for upper in range(2):
        store(out, 16 * upper, look_up(levels, nibbles(block, _NL_QS, upper)) * d)


@primitive
def _iq4_xs(block: Pointer, out: Pointer, levels: Array) -> None:
    """d · (scale − 32) · level, the scale for each 32 weights: four bits of it are apart from the other two."""
    d, tops = half(block, 0), word16(block, _XS_HIGH)
    for group in range(8):
        low = (int(block[_XS_LOW + group // 2]) >> 4 * (group % 2)) & 15
        scale = d * to_float(splat_int((low | ((tops >> 2 * group) & 3) << 4) - 32))
        for upper in range(2):
            found = look_up(levels, nibbles(block, _XS_QS + 16 * group, upper))
            store(out, 32 * group + 16 * upper, found * scale)


@primitive
def _mxfp4(block: Pointer, out: Pointer, levels: Array) -> None:
    """2ᵉ · level / 2, with levels twice those of E2M1"""
    e = int(block[0])
    d = from_bits(splat_int(0x00200000 << e if e < 2 else (e - 1) << 23))
    for upper in range(2):
        store(out, 16 * upper, look_up(levels, nibbles(block, _MX_QS, upper)) * d)


@primitive
def _nvfp4(block: Pointer, out: Pointer, levels: Array) -> None:
    """scale · level / 2, the scale a number of E4M3 for each 16 weights: 0 for that of NaN, its sign unused"""
    lane = lane_numbers()
    for group in range(4):
        byte = int(block[group])
        exponent, mantissa = (byte >> 3) & 15, byte & 7
        normal = from_bits(splat_int((exponent + 119) << 23 | mantissa << 20))
        small = to_float(splat_int(mantissa)) * np.float32(2.0**-10)
        d = small if exponent == 0 else normal
        if byte == 0x7F:
            d = to_float(splat_int(0))
        at = _NV_QS + 8 * group
        words = where((lane & 4) == 0, splat_int(word32(block, at)), splat_int(word32(block, at + 4)))
        codes = (words >> (((lane & 3) << 3) + ((lane >> 3) << 2))) & 15
        store(out, 16 * group, look_up(levels, codes) * d)


iq4_nl, iq4_xs = decoded("iq4_nl", "IQ4_NL", _iq4_nl), decoded("iq4_xs", "IQ4_XS", _iq4_xs)
mxfp4, nvfp4 = decoded("mxfp4", "MXFP4", _mxfp4), decoded("nvfp4", "NVFP4", _nvfp4)
