"""MXFP4 and NVFP4: 4-bit floats ±{0, ½, 1, 1½, 2, 3, 4, 6} under an 8-bit scale per 32 or 16 weights.

The tables hold twice the values and the scales are halved. Importance plays no part.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hubquant.quants.cpu.block import load_tile, minimum, put_bits, store_tile
from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.search import extreme
from hubquant.quants.cpu.simd import (
    LANES,
    Pointer,
    Vector,
    absolute,
    byte_vectors,
    float_bits,
    from_bits,
    load,
    offset,
    pointer,
    put_byte,
    splat,
    splat_int,
    store,
    to_float,
    to_int,
    vectors,
    where,
)
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO = _f(0)
_MAGNITUDES = (_f(0), _f(1), _f(2), _f(3), _f(4), _f(6), _f(8), _f(12))
_MXFP4, _NVFP4 = TYPES["MXFP4"], TYPES["NVFP4"]
_MX_BYTES, _MX_E, _MX_QS = _MXFP4.block_bytes, _MXFP4.offset("e"), _MXFP4.plane("qs")
_NV_BYTES, _NV_SCALES, _NV_QS = _NVFP4.block_bytes, _NVFP4.offset("scales"), _NVFP4.plane("qs")


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
    lanes = np.empty(LANES, np.float32)
    store(pointer(lanes), 0, magnitude)
    for lane in range(LANES):
        if lanes[lane] > _ZERO:
            lanes[lane] = math.floor(_f(math.log2(np.float64(lanes[lane])))) + 125
    return to_int(load(pointer(lanes), 0)) & 255


@kernel
def mxfp4(values: Array, out: Array) -> None:
    x, block = vectors(32), byte_vectors(_MX_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _, magnitude = extreme(32, x)
        exponent = exponents(magnitude)
        put_byte(block, _MX_E, exponent)
        half_scale = where(exponent < 2, where(exponent == 0, splat_int(0x00200000), 0x00400000), (exponent - 1) << 23)
        _codes(32, x, from_bits(half_scale))
        put_bits(block, _MX_QS, x, 32)
        store_tile(out, tile, block)


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
    exponent, mantissa = code >> 3, code & 7
    normal = from_bits((exponent + 119) << 23 | mantissa << 20)
    return where(exponent == 0, to_float(mantissa) * _f(2.0**-10), normal)


@kernel
def nvfp4(values: Array, out: Array) -> None:
    x, block = vectors(64), byte_vectors(_NV_BYTES)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for j in range(4):
            sub = offset(x, 16 * j)
            _, magnitude = extreme(16, sub)
            scale = e4m3(magnitude / _f(6))
            put_byte(block, _NV_SCALES + j, scale)
            _codes(16, sub, half_of_e4m3(scale))
        put_bits(block, _NV_QS, x, 64)
        store_tile(out, tile, block)
