"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: one scale (and minimum) per block of 32.

Kernels take ``x`` float32 [blocks, 32] and write ``out`` uint8 [blocks, block_bytes]; the number of blocks is a
multiple of 16. The weighted ones also take ``power`` float32 [blocks], the mean square of each block's row, and
``importance`` float32 [tiles, 32, 16], which repeats every ``tiles`` · 16 blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.block import (
    clamp,
    finite,
    half_bits,
    load_tile,
    maximum,
    minimum,
    nearest,
    put_bits,
    put_half,
    reciprocal,
    round_away,
    store_tile,
)
from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.search import asymmetric, extreme, symmetric, symmetric_code
from hubquant.quants.cpu.simd import (
    LANES,
    Pointer,
    Vector,
    byte_vectors,
    load,
    pointer,
    put_byte,
    to_int,
    truncate,
    vectors,
)
from hubquant.quants.cpu.weights import error_weights
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_SIZE = 32
_Q4_0, _Q4_1, _Q5_0, _Q5_1, _Q8_0 = (TYPES[name].block_bytes for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
_Q4_0_QS, _Q4_1_QS = TYPES["Q4_0"].plane("qs"), TYPES["Q4_1"].plane("qs")
_Q5_0_QS, _Q5_0_QH = TYPES["Q5_0"].plane("qs"), TYPES["Q5_0"].plane("qh")
_Q5_1_QS, _Q5_1_QH = TYPES["Q5_1"].plane("qs"), TYPES["Q5_1"].plane("qh")


@primitive
def _truncated(value: Vector, top: np.float32) -> Vector:
    return minimum(truncate(finite(value)), top)


@primitive
def _scaled_by_extreme(x: Pointer, levels: np.float32, block: Pointer) -> None:
    """Scale = extreme / −levels, rounded codes into ``x``: the quantizer of Q4_0 and Q5_0 without importance."""
    value, _ = extreme(_SIZE, x)
    scale = value / -levels
    inverse = reciprocal(scale)
    put_half(block, 0, half_bits(scale))
    for i in range(_SIZE):
        x[i] = _truncated(x[i] * inverse + (levels + _HALF), levels + levels - _ONE)


@primitive
def _scaled_by_range(x: Pointer, top: np.float32, block: Pointer) -> None:
    """Scale = range / top, rounded codes into ``x``: the quantizer of Q4_1 and Q5_1 without importance."""
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


@kernel
def q4_0(values: Array, out: Array) -> None:
    x = vectors(_SIZE)
    block = byte_vectors(_Q4_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _scaled_by_extreme(x, _f(8), block)
        put_bits(block, _Q4_0_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_0(values: Array, out: Array) -> None:
    x = vectors(_SIZE)
    block = byte_vectors(_Q5_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _scaled_by_extreme(x, _f(16), block)
        put_bits(block, _Q5_0_QS, x, _SIZE)
        put_bits(block, _Q5_0_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q4_1(values: Array, out: Array) -> None:
    x = vectors(_SIZE)
    block = byte_vectors(_Q4_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _scaled_by_range(x, _f(15), block)
        put_bits(block, _Q4_1_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_1(values: Array, out: Array) -> None:
    x = vectors(_SIZE)
    block = byte_vectors(_Q5_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _scaled_by_range(x, _f(31), block)
        put_bits(block, _Q5_1_QS, x, _SIZE)
        put_bits(block, _Q5_1_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q8_0(values: Array, out: Array) -> None:
    x = vectors(_SIZE)
    block = byte_vectors(_Q8_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        _, magnitude = extreme(_SIZE, x)
        scale = magnitude / _f(127)
        inverse = reciprocal(scale)
        put_half(block, 0, half_bits(scale))
        for i in range(_SIZE):
            put_byte(block, 2 + i, to_int(round_away(finite(x[i] * inverse))))
        store_tile(out, tile, block)


@primitive
def _symmetric_block(x: Pointer, w: Pointer, levels: np.float32, block: Pointer) -> None:
    scale, inverse = symmetric(_SIZE, levels, x, w)
    put_half(block, 0, half_bits(scale))
    for i in range(_SIZE):
        x[i] = symmetric_code(inverse, levels, x[i])


@primitive
def _asymmetric_block(x: Pointer, w: Pointer, top: np.float32, block: Pointer) -> None:
    scale, low, inverse, base = asymmetric(_SIZE, top, x, w, _f(-0.9), _f(0.05), 36, False)
    put_half(block, 0, half_bits(scale))
    put_half(block, 2, half_bits(low))
    for i in range(_SIZE):
        x[i] = clamp(nearest(inverse * (x[i] - base)), _ZERO, top)


@kernel
def q4_0_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w = vectors(_SIZE), vectors(_SIZE)
    block = byte_vectors(_Q4_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _symmetric_block(x, w, _f(8), block)
        put_bits(block, _Q4_0_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_0_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w = vectors(_SIZE), vectors(_SIZE)
    block = byte_vectors(_Q5_0)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _symmetric_block(x, w, _f(16), block)
        put_bits(block, _Q5_0_QS, x, _SIZE)
        put_bits(block, _Q5_0_QH, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q4_1_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w = vectors(_SIZE), vectors(_SIZE)
    block = byte_vectors(_Q4_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _asymmetric_block(x, w, _f(15), block)
        put_bits(block, _Q4_1_QS, x, _SIZE)
        store_tile(out, tile, block)


@kernel
def q5_1_weighted(values: Array, power: Array, importance: Array, out: Array) -> None:
    x, w = vectors(_SIZE), vectors(_SIZE)
    block = byte_vectors(_Q5_1)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, load(pointer(power), tile * LANES))
        _asymmetric_block(x, w, _f(31), block)
        put_bits(block, _Q5_1_QS, x, _SIZE)
        put_bits(block, _Q5_1_QH, x, _SIZE)
        store_tile(out, tile, block)
