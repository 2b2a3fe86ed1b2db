"""MXFP4 and NVFP4: 4-bit floats ±{0, ½, 1, 1½, 2, 3, 4, 6} under an 8-bit scale per 32 or 16 weights.

The tables hold twice the values and the scales are halved. Importance plays no part.
"""

from __future__ import annotations

import math

import numpy as np

from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import code_planes, minimum
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import framed, unweighted
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    float_bits,
    from_bits,
    lanes,
    offset,
    put_byte,
    splat,
    splat_int,
    to_float,
    to_int,
    vectors,
    where,
)
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO = _f(0)
_MAGNITUDES = (_f(0), _f(1), _f(2), _f(3), _f(4), _f(6), _f(8), _f(12))
_MX_E, _NV_SCALES = TYPES["MXFP4"].offset("e"), TYPES["NVFP4"].offset("scales")
_put_mx_codes, _put_nv_codes = code_planes("MXFP4"), code_planes("NVFP4")


@primitive
def _codes(n: int, x: Pointer, scale: Vector) -> None:
    """The code of the nearest value into ``x``, the lowest of equals: 0–7 positive, 8–15 negative."""
    for i in range(n):
        best = absolute(_ZERO * scale - x[i])
        code = splat(_ZERO)
        for k in range(1, 16):
            value = _MAGNITUDES[k] if k < 8 else -_MAGNITUDES[k - 8]
            error = absolute(value * scale - x[i])
            code = where(error < best, _f(k), code)
            best = minimum(error, best)
        x[i] = code


@primitive
def exponents(magnitude: Vector) -> Vector:
    """⌊log₂ magnitude⌋ + 125, 0 for 0, as a byte. The logarithm is rounded to single precision before it is floored."""
    found = vectors(1)
    found[0] = magnitude
    values = lanes(found)
    for lane in range(LANES):
        if values[lane] > _ZERO:
            values[lane] = math.floor(_f(math.log2(np.float64(values[lane])))) + 125
    return to_int(found[0]) & 255


@primitive
def _search_mx(x: Pointer, _w: Pointer, block: Pointer) -> None:
    _, magnitude = extreme(32, x)
    exponent = exponents(magnitude)
    put_byte(block, _MX_E, exponent)
    half_scale = where(exponent < 2, where(exponent == 0, splat_int(0x00200000), 0x00400000), (exponent - 1) << 23)
    _codes(32, x, from_bits(half_scale))
    _put_mx_codes(block, x)


mxfp4 = framed("mxfp4", "MXFP4", _search_mx, unweighted)


@primitive
def e4m3(value: Vector) -> Vector:
    """A value ≥ 0 as unsigned 4-bit exponent and 3-bit mantissa (i32x16), rounding half up.

    ggml has no steps in the highest binade: all that rounds to 256 or more becomes 448 (0x7E).
    """
    bits = float_bits(minimum(value, _f(448)))
    exponent = (bits >> 23) - 120
    rounded = (exponent << 3) + ((bits >> 20) & 7) + ((bits >> 19) & 1)
    normal = where(rounded >= 0x78, splat_int(0x7E), rounded)
    denormal = to_int(minimum(minimum(value, _f(448)) * _f(512) + _f(0.5), _f(7)))
    return where(exponent > 0, normal, denormal)


@primitive
def half_of_e4m3(code: Vector) -> Vector:
    """Half of what an unsigned float with 4 exponent and 3 mantissa bits stands for."""
    exponent, mantissa = code >> 3, code & 7
    normal = from_bits((exponent + 119) << 23 | mantissa << 20)
    return where(exponent == 0, to_float(mantissa) * _f(2.0**-10), normal)


@primitive
def _search_nv(x: Pointer, _w: Pointer, block: Pointer) -> None:
    for j in range(4):
        sub = offset(x, 16 * j)
        _, magnitude = extreme(16, sub)
        scale = e4m3(magnitude / _f(6))
        put_byte(block, _NV_SCALES + j, scale)
        _codes(16, sub, half_of_e4m3(scale))
    _put_nv_codes(block, x)


nvfp4 = framed("nvfp4", "NVFP4", _search_nv, unweighted)
