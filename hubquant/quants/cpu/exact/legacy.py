"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: one scale (and minimum) per block of 32."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.exact.search import asymmetric, extreme, symmetric, symmetric_code
from hubquant.quants.cpu.vector.block import (
    clamp,
    code_planes,
    finite,
    half_bits,
    maximum,
    minimum,
    nearest,
    put_half,
    reciprocal,
    round_away,
)
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import by_row, framed, unweighted
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import Pointer, Vector, put_byte, to_int, truncate

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_SIZE = 32


@primitive
def _truncated(value: Vector, top: np.float32) -> Vector:
    return minimum(truncate(finite(value)), top)


def _by_extreme(type: str, levels: np.float32) -> Kernel:
    """Scale = extreme / −levels: the quantizer of Q4_0 and Q5_0 without importance."""
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, _w: Pointer, block: Pointer) -> None:
        value, _ = extreme(_SIZE, x)
        scale = value / -levels
        inverse = reciprocal(scale)
        put_half(block, 0, half_bits(scale))
        for i in range(_SIZE):
            x[i] = _truncated(x[i] * inverse + (levels + _HALF), levels + levels - _ONE)
        put_codes(block, x)

    return framed(type.lower(), type, search, unweighted)


def _by_range(type: str, top: np.float32) -> Kernel:
    """Scale = range / top: the quantizer of Q4_1 and Q5_1 without importance."""
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, _w: Pointer, block: Pointer) -> None:
        low = x[0]
        high = x[0]
        for i in range(1, _SIZE):
            low = minimum(x[i], low)
            high = maximum(x[i], high)
        scale = (high - low) / top
        inverse = reciprocal(scale)
        put_half(block, 0, half_bits(scale))
        put_half(block, 2, half_bits(low))
        for i in range(_SIZE):
            x[i] = _truncated((x[i] - low) * inverse + _HALF, top)
        put_codes(block, x)

    return framed(type.lower(), type, search, unweighted)


def _symmetric(type: str, levels: np.float32) -> Kernel:
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, w: Pointer, block: Pointer) -> None:
        scale, inverse = symmetric(_SIZE, levels, x, w, True)
        put_half(block, 0, half_bits(scale))
        for i in range(_SIZE):
            x[i] = symmetric_code(inverse, levels, x[i])
        put_codes(block, x)

    return framed(f"{type.lower()}_weighted", type, search, by_row)


def _asymmetric(type: str, top: np.float32) -> Kernel:
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, w: Pointer, block: Pointer) -> None:
        scale, low, inverse, base = asymmetric(_SIZE, top, x, w, _f(-0.9), _f(0.05), 36, False)
        put_half(block, 0, half_bits(scale))
        put_half(block, 2, half_bits(low))
        for i in range(_SIZE):
            x[i] = clamp(nearest(inverse * (x[i] - base)), _ZERO, top)
        put_codes(block, x)

    return framed(f"{type.lower()}_weighted", type, search, by_row)


@primitive
def _search_bytes(x: Pointer, _w: Pointer, block: Pointer) -> None:
    _, magnitude = extreme(_SIZE, x)
    scale = magnitude / _f(127)
    inverse = reciprocal(scale)
    put_half(block, 0, half_bits(scale))
    for i in range(_SIZE):
        put_byte(block, 2 + i, to_int(round_away(finite(x[i] * inverse))))


q4_0, q4_0_weighted = _by_extreme("Q4_0", _f(8)), _symmetric("Q4_0", _f(8))
q5_0, q5_0_weighted = _by_extreme("Q5_0", _f(16)), _symmetric("Q5_0", _f(16))
q4_1, q4_1_weighted = _by_range("Q4_1", _f(15)), _asymmetric("Q4_1", _f(15))
q5_1, q5_1_weighted = _by_range("Q5_1", _f(31)), _asymmetric("Q5_1", _f(31))
q8_0 = framed("q8_0", "Q8_0", _search_bytes, unweighted)
