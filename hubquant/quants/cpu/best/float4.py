"""MXFP4 and NVFP4 with a lower error than llama.cpp's, and with importance, which it ignores.

llama.cpp derives the scale from the largest weight alone. Here its neighbours are tried too, for each scale with the
nearest codes; the error is Σ importance · (x̂ − x)², plain squares without importance. llama.cpp's scale is among the
candidates, so no block gets a larger error.
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.exact.float4 import e4m3, exponents, half_of_e4m3
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import minimum, put_bits
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import by_importance, by_one, framed
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    absolute,
    from_bits,
    offset,
    put_byte,
    splat,
    where,
)
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_LARGEST = _f(3e38)
_MXFP4, _NVFP4 = TYPES["MXFP4"], TYPES["NVFP4"]
_MX_E, _MX_QS = _MXFP4.offset("e"), _MXFP4.plane("qs")
_NV_SCALES, _NV_QS = _NVFP4.offset("scales"), _NVFP4.plane("qs")
_TO_HALVES = _f(1.5 * 2**22)  # adding it leaves multiples of ½; of 1 and 2 with twice and four times the number


@primitive
def _magnitude(value: Vector) -> Vector:
    """The nearest of 0, ½, 1, 1½, 2, 3, 4, 6 for a value ≥ 0."""
    capped = minimum(value, _f(6))
    magic = where(capped < _f(2), _TO_HALVES, where(capped < _f(4), splat(_f(2) * _TO_HALVES), _f(4) * _TO_HALVES))
    return (capped + magic) - magic


@primitive
def _codes(n: int, x: Pointer, inverse: Vector) -> None:
    """Codes of the nearest values into ``x``: 0–7 positive, 8–15 negative."""
    for i in range(n):
        value = _magnitude(absolute(x[i] * inverse))
        code = where(value <= _f(2), value + value, where(value < _f(4), splat(_f(5)), _HALF * value + _f(4)))
        x[i] = where((x[i] < _ZERO) & (value > _ZERO), code + _f(8), code)


@primitive
def _error(n: int, x: Pointer, w: Pointer, inverse: Vector) -> Vector:
    """Σ w·(value − x·inverse)² with the nearest values: the error in units of the scale."""
    total = splat(_ZERO)
    for i in range(n):
        scaled = absolute(x[i] * inverse)
        off = _magnitude(scaled) - scaled
        total = total + w[i] * (off * off)
    return total


# ---- MXFP4 ----------------------------------------------------------------------------------------------------------


@primitive
def _power_of_two(exponent: Vector) -> Vector:
    """2^exponent for −126 … 127."""
    return from_bits((exponent + 127) << 23)


@primitive
def _search_mx(x: Pointer, w: Pointer, block: Pointer) -> None:
    """The best of llama.cpp's power of two, the next one, and three smaller ones."""
    _, magnitude = extreme(32, x)
    first = exponents(magnitude)
    best = splat(_LARGEST)
    exponent = first
    for step in range(5):
        other = first + (0 if step == 0 else (1 if step == 1 else 1 - step))
        relative = _power_of_two(other - first)
        # the error in units of the first scale: its square needs no range of its own
        error = _error(32, x, w, _power_of_two(127 - other)) * relative * relative
        better = (error < best) & (other >= 0)
        best = where(better, error, best)
        exponent = where(better, other, exponent)
    put_byte(block, _MX_E, exponent)
    _codes(32, x, _power_of_two(127 - exponent))
    put_bits(block, _MX_QS, x, 32)


mxfp4 = framed("mxfp4", "MXFP4", _search_mx, by_one)
mxfp4_weighted = framed("mxfp4_weighted", "MXFP4", _search_mx, by_importance)


# ---- NVFP4 ----------------------------------------------------------------------------------------------------------


@primitive
def _scale_of(code: Vector) -> Vector:
    return half_of_e4m3(code) + half_of_e4m3(code)


@primitive
def _best_e4m3(x: Pointer, w: Pointer) -> Vector:
    """The best scale among llama.cpp's, the six below it and the eight above: 16 weights, as an 8-bit code."""
    _, magnitude = extreme(16, x)
    first = e4m3(magnitude / _f(6))
    best = splat(_LARGEST)
    code = first
    for step in range(15):
        other = first + (0 if step == 0 else (step if step <= 8 else 8 - step))
        scale = _scale_of(other)
        error = _error(16, x, w, _ONE / scale) * (scale * scale)
        better = (error < best) & (other > 0) & (other < 0x7F)
        best = where(better, error, best)
        code = where(better, other, code)
    return code


@primitive
def _search_nv(x: Pointer, w: Pointer, block: Pointer) -> None:
    for j in range(4):
        sub = offset(x, 16 * j)
        code = _best_e4m3(sub, offset(w, 16 * j))
        put_byte(block, _NV_SCALES + j, code)
        _codes(16, sub, where(code > 0, _ONE / _scale_of(code), _ZERO))
    put_bits(block, _NV_QS, x, 64)


nvfp4 = framed("nvfp4", "NVFP4", _search_nv, by_one)
nvfp4_weighted = framed("nvfp4_weighted", "NVFP4", _search_nv, by_importance)
