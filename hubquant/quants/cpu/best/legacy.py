"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 with a lower error than llama.cpp's: its solution is the start and the fallback.

Errors are measured with the weights of llama.cpp's search (:mod:`exact.legacy`); where it has none, as plain squares,
or by importance alone (Q8_0).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.best.refine import affine_error, code, fit_line, search_line, signed_error, to_half
from hubquant.quants.cpu.best.refine_signed import refit, search_signed
from hubquant.quants.cpu.exact.search import asymmetric, extreme
from hubquant.quants.cpu.vector.block import (
    half_bits,
    load_tile,
    maximum,
    minimum,
    put_bits,
    put_half,
    reciprocal,
    store_tile,
)
from hubquant.quants.cpu.vector.compile import kernel, primitive
from hubquant.quants.cpu.vector.simd import (
    LANES,
    Pointer,
    Vector,
    byte_vectors,
    load,
    pointer,
    put_byte,
    splat,
    to_int,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import error_weights, importance_of
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE = _f(0), _f(1)
_SIZE = 32
_REFITS = 2
_Q4_0, _Q4_1, _Q5_0, _Q5_1, _Q8_0 = (TYPES[name].block_bytes for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
_Q4_0_QS, _Q4_1_QS = TYPES["Q4_0"].plane("qs"), TYPES["Q4_1"].plane("qs")
_Q5_0_QS, _Q5_0_QH = TYPES["Q5_0"].plane("qs"), TYPES["Q5_0"].plane("qh")
_Q5_1_QS, _Q5_1_QH = TYPES["Q5_1"].plane("qs"), TYPES["Q5_1"].plane("qh")


@primitive
def _ones(w: Pointer) -> None:
    for i in range(_SIZE):
        w[i] = splat(_ONE)


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


@kernel
def q4_0(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q4_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _ones(w)
        _signed_block(_f(8), 10, x, w, block)
        put_bits(block, _Q4_0_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q4_0_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q4_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _signed_block(_f(8), 10, x, w, block)
        put_bits(block, _Q4_0_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_0(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q5_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _ones(w)
        _signed_block(_f(16), 9, x, w, block)
        put_bits(block, _Q5_0_QS, x, _SIZE)
        put_bits(block, _Q5_0_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_0_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q5_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _signed_block(_f(16), 9, x, w, block)
        put_bits(block, _Q5_0_QS, x, _SIZE)
        put_bits(block, _Q5_0_QH, x, _SIZE)
        store_tile(out, tile, block)


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


@kernel
def q8_0(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q8_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _ones(w)
        _byte_block(x, w, block)
        store_tile(out, tile, block)


@kernel
def q8_0_weighted(values: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q8_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        for i in range(_SIZE):
            w[i] = importance_of(importance, tile, i)
        _byte_block(x, w, block)
        store_tile(out, tile, block)


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
    _ones(w)
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


@kernel
def q4_1(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q4_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _by_range(_f(15), x, w, block)
        put_bits(block, _Q4_1_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q4_1_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q4_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _by_line(_f(15), x, w, block)
        put_bits(block, _Q4_1_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_1(values: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q5_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _by_range(_f(31), x, w, block)
        put_bits(block, _Q5_1_QS, x, _SIZE)
        put_bits(block, _Q5_1_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_1_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w, block = vectors(_SIZE), vectors(_SIZE), byte_vectors(_Q5_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _by_line(_f(31), x, w, block)
        put_bits(block, _Q5_1_QS, x, _SIZE)
        put_bits(block, _Q5_1_QH, x, _SIZE)
        store_tile(out, tile, block)
