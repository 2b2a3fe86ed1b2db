"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 with a lower error than llama.cpp's: its solution is the start and the fallback.

Errors are measured with the weights of llama.cpp's search (:mod:`exact.legacy`); where it has none, as plain squares,
or by importance alone (Q8_0).
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.refine import affine_error, code, fit_line, search_line, signed_error, to_half
from hubquant.quants.cpu.best.refine_signed import refit, search_signed
from hubquant.quants.cpu.exact.search import asymmetric, extreme
from hubquant.quants.cpu.vector.block import code_planes, half_bits, maximum, minimum, put_half, reciprocal
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import by_importance, by_one, by_row, framed
from hubquant.quants.cpu.vector.native import Kernel
from hubquant.quants.cpu.vector.simd import Pointer, Vector, put_byte, to_int, where

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_SIZE = 32
_REFITS = 2


# ---- one scale ------------------------------------------------------------------------------------------------------


@primitive
def _put_scale(bottom: np.float32, top: np.float32, x: Pointer, d: Vector, block: Pointer) -> None:
    """``d`` into the block; codes counted from ``bottom`` into ``x``."""
    inverse = reciprocal(d)
    for i in range(_SIZE):
        x[i] = code(x[i] * inverse, bottom, top) - bottom
    put_half(block, 0, half_bits(d))


@primitive
def _signed_block(levels: np.float32, steps: int, x: Pointer, w: Pointer, block: Pointer) -> None:
    """The better of the best scale found, its refits, and that of llama.cpp's quantizer without importance."""
    bottom, top = -levels, levels - _ONE
    value, _ = extreme(_SIZE, x)
    start = value / bottom
    best_d = to_half(start)
    best, _ = refit(_SIZE, bottom, top, x, w, best_d)
    d = to_half(search_signed(_SIZE, bottom, top, _f(1.2), steps, x, w, start))
    for _ in range(_REFITS + 1):
        excess, fitted = refit(_SIZE, bottom, top, x, w, d)
        better = excess < best
        best = where(better, excess, best)
        best_d = where(better, d, best_d)
        d = fitted
    _put_scale(bottom, top, x, best_d, block)


def _signed(type: str, levels: np.float32, steps: int) -> tuple[Kernel, Kernel]:
    """Without importance and with it."""
    put_codes = code_planes(type)

    @primitive
    def search(x: Pointer, w: Pointer, block: Pointer) -> None:
        _signed_block(levels, steps, x, w, block)
        put_codes(block, x)

    return framed(type.lower(), type, search, by_one), framed(f"{type.lower()}_weighted", type, search, by_row)


q4_0, q4_0_weighted = _signed("Q4_0", _f(8), 10)
q5_0, q5_0_weighted = _signed("Q5_0", _f(16), 9)


@primitive
def _byte_block(x: Pointer, w: Pointer, block: Pointer) -> None:
    """Codes −127 … 127, as llama.cpp's own. Errors are summed anew for each scale: next to Σ w·x² they are too small
    for a difference.
    """
    bottom, top = _f(-127), _f(127)
    _, magnitude = extreme(_SIZE, x)
    start = magnitude / top
    best_d = to_half(start)
    best = signed_error(_SIZE, bottom, top, x, w, best_d)
    d = to_half(search_signed(_SIZE, bottom, top, _f(1.2), 5, x, w, start))
    for _ in range(_REFITS + 1):
        error = signed_error(_SIZE, bottom, top, x, w, d)
        better = error < best
        best = where(better, error, best)
        best_d = where(better, d, best_d)
        _, d = refit(_SIZE, bottom, top, x, w, d)
    _put_scale(bottom, top, x, best_d, block)
    for i in range(_SIZE):
        put_byte(block, 2 + i, to_int(x[i] - top))


q8_0 = framed("q8_0", "Q8_0", _byte_block, by_one)
q8_0_weighted = framed("q8_0_weighted", "Q8_0", _byte_block, by_importance)


# ---- a scale and a minimum ------------------------------------------------------------------------------------------


@primitive
def _affine_block(
    top: np.float32, steps: int, x: Pointer, w: Pointer, scale: Vector, low: Vector, block: Pointer
) -> None:
    """The better of ``scale`` and ``low``, llama.cpp's, and the best ones found around them; codes into ``x``."""
    best_d = to_half(scale)
    best_m = to_half(low)
    best = affine_error(_SIZE, top, x, w, best_d, -best_m)
    found, found_low = search_line(_SIZE, top, _f(0.9), steps, x, w, scale, low)
    d = to_half(found)
    m = to_half(found_low)
    for step in range(_REFITS + 1):
        error = affine_error(_SIZE, top, x, w, d, -m)
        better = error < best
        best = where(better, error, best)
        best_d = where(better, d, best_d)
        best_m = where(better, m, best_m)
        if step < _REFITS:
            found, found_low = fit_line(_SIZE, top, x, w, d, m)
            d = to_half(found)
            m = to_half(found_low)
    inverse = reciprocal(best_d)
    for i in range(_SIZE):
        x[i] = code((x[i] - best_m) * inverse, _ZERO, top)
    put_half(block, 0, half_bits(best_d))
    put_half(block, 2, half_bits(best_m))


@primitive
def _by_range(top: np.float32, x: Pointer, w: Pointer, block: Pointer) -> None:
    low = x[0]
    high = x[0]
    for i in range(1, _SIZE):
        low = minimum(x[i], low)
        high = maximum(x[i], high)
    _affine_block(top, 13, x, w, (high - low) / top, low, block)


@primitive
def _by_line(top: np.float32, x: Pointer, w: Pointer, block: Pointer) -> None:
    scale, low, _, _ = asymmetric(_SIZE, top, x, w, _f(-0.9), _f(0.05), 36, False)
    _affine_block(top, 7, x, w, scale, low, block)


def _affine(type: str, top: np.float32) -> tuple[Kernel, Kernel]:
    """Without importance and with it."""
    put_codes = code_planes(type)

    @primitive
    def search_around_range(x: Pointer, w: Pointer, block: Pointer) -> None:
        _by_range(top, x, w, block)
        put_codes(block, x)

    @primitive
    def search_around_line(x: Pointer, w: Pointer, block: Pointer) -> None:
        _by_line(top, x, w, block)
        put_codes(block, x)

    name = type.lower()
    return framed(name, type, search_around_range, by_one), framed(f"{name}_weighted", type, search_around_line, by_row)


q4_1, q4_1_weighted = _affine("Q4_1", _f(15))
q5_1, q5_1_weighted = _affine("Q5_1", _f(31))
