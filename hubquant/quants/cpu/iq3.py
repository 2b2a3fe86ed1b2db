"""IQ3_XXS and IQ3_S: groups of 4 magnitudes from a codebook, signs apart, a 4-bit scale for every 32 weights.

Kernels take ``values`` float32 [blocks, 256], the codebook's tables, and write ``out`` uint8 [blocks, block_bytes]; the
number of blocks is a multiple of 16. The weighted ones also take ``importance`` float32 [tiles, 256, 16].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.block import half_bits, load_tile, maximum, put_half, store_tile
from hubquant.quants.cpu.codebook import (
    ALL_IF_ANY_MISSED,
    MISSES,
    entries,
    fit,
    four_bit_scales,
    magnitudes,
    scale_step,
)
from hubquant.quants.cpu.compile import kernel, primitive
from hubquant.quants.cpu.grids import codebook
from hubquant.quants.cpu.search import extreme
from hubquant.quants.cpu.simd import (
    LANES,
    Pointer,
    any_lane,
    byte_vectors,
    int_vectors,
    offset,
    put_byte,
    splat_int,
    sqrt,
    vectors,
    where,
)
from hubquant.quants.cpu.weights import error_weights, square_weights, sum_squares
from hubquant.quants.formats import TYPES

Array = np.ndarray[Any, Any]

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_TINY = _f(1e-8)
_XXS, _S = TYPES["IQ3_XXS"], TYPES["IQ3_S"]
_XXS_BYTES, _XXS_D, _XXS_QS = _XXS.block_bytes, _XXS.offset("d"), _XXS.offset("qs")
_S_BYTES, _S_D, _S_QS, _S_QH = _S.block_bytes, _S.offset("d"), _S.offset("qs"), _S.offset("qh")
_S_SIGNS, _S_SCALES = _S.offset("signs"), _S.offset("scales")


@primitive
def _search(
    x: Pointer,
    w: Pointer,
    even: bool,
    reach: int,
    again: int,
    lookup: Array,
    lists: Array,
    scale: Pointer,
    keys: Pointer,
    signs: Pointer,
) -> None:
    """The scales of 8 sub-blocks of 32, the keys of 64 groups of 4, and 32 bytes of signs."""
    values, root = vectors(32), vectors(32)
    for j in range(8):
        sub_w, sub_signs = offset(w, 32 * j), offset(signs, 4 * j)
        magnitudes(32, offset(x, 32 * j), sub_w, even, values, sub_signs)
        high = values[0]
        for i in range(32):
            root[i] = sqrt(sub_w[i])
            high = maximum(high, values[i])
        sub_keys = offset(keys, 8 * j)
        found = fit(8, 4, 3, reach, _f(0.2), again, values, sub_w, root, high, high / _f(15), lookup, lists, sub_keys)
        alive = high >= _TINY if even else high > _ZERO
        negative = found < _ZERO
        scale[j] = where(alive, where(negative, -found, found), _ZERO)
        for g in range(4):
            sign = where(negative, sub_signs[g] ^ (127 if even else 255), sub_signs[g])
            sub_signs[g] = where(alive, sign, 0)
        for g in range(8):
            sub_keys[g] = where(alive, entries(sub_keys[g], lookup), 0)


@primitive
def _finish_xxs(scale: Pointer, indices: Pointer, signs: Pointer, block: Pointer) -> None:
    codes = int_vectors(8)
    step = scale_step(8, scale)
    put_half(block, _XXS_D, half_bits(step * _f(1.0125)))
    four_bit_scales(8, scale, step, codes)
    for g in range(64):
        put_byte(block, _XXS_QS + g, indices[g])
    for j in range(8):
        word = codes[j] << 28
        for g in range(4):
            word = word | signs[4 * j + g] << (7 * g)
        for b in range(4):
            put_byte(block, _XXS_QS + 64 + 4 * j + b, word >> (8 * b))


@kernel
def _iq3_xxs(values: Array, lookup: Array, lists: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_XXS_BYTES)
    scale, indices, signs = vectors(8), int_vectors(64), int_vectors(32)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        square_weights(256, w, x)
        _search(x, w, True, 15, MISSES, lookup, lists, scale, indices, signs)
        _finish_xxs(scale, indices, signs, block)
        store_tile(out, tile, block)


@kernel
def _iq3_xxs_weighted(values: Array, importance: Array, lookup: Array, lists: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_XXS_BYTES)
    scale, indices, signs = vectors(8), int_vectors(64), int_vectors(32)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, _f(2) * sum_squares(256, x) / _f(256))
        _search(x, w, True, 15, MISSES, lookup, lists, scale, indices, signs)
        _finish_xxs(scale, indices, signs, block)
        store_tile(out, tile, block)


@primitive
def _close_gaps(x: Pointer, width: int, items: Pointer) -> None:
    """Move the ``items`` (``width`` per sub-block) behind a sub-block of zeros up into its place.

    llama.cpp does so: it advances its write position only past sub-blocks that hold something. Such super-blocks
    decode wrongly; the bytes are the same.
    """
    for j in range(7, -1, -1):
        _, magnitude = extreme(32, offset(x, 32 * j))
        gone = magnitude == _ZERO
        if any_lane(gone):
            for i in range(j * width, 8 * width):
                following = items[i + width] if i + width < 8 * width else splat_int(0)
                items[i] = where(gone, following, items[i])


@primitive
def _finish_s(x: Pointer, scale: Pointer, indices: Pointer, signs: Pointer, block: Pointer) -> None:
    codes = int_vectors(8)
    step = scale_step(8, scale)
    put_half(block, _S_D, half_bits(step * _f(1.033)))
    four_bit_scales(8, scale, step, codes)
    for j in range(8):
        high = splat_int(0)
        for g in range(8):
            high = high | (indices[8 * j + g] >> 8) << g
        put_byte(block, _S_QH + j, high)
    _close_gaps(x, 8, indices)
    _close_gaps(x, 4, signs)
    for g in range(64):
        put_byte(block, _S_QS + g, indices[g])
    for g in range(32):
        put_byte(block, _S_SIGNS + g, signs[g])
    for j in range(4):
        put_byte(block, _S_SCALES + j, codes[2 * j] | codes[2 * j + 1] << 4)


@kernel
def _iq3_s(values: Array, lookup: Array, lists: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_S_BYTES)
    scale, indices, signs = vectors(8), int_vectors(64), int_vectors(32)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        square_weights(256, w, x)
        _search(x, w, False, 9, ALL_IF_ANY_MISSED, lookup, lists, scale, indices, signs)
        _finish_s(x, scale, indices, signs, block)
        store_tile(out, tile, block)


@kernel
def _iq3_s_weighted(values: Array, importance: Array, lookup: Array, lists: Array, out: Array) -> None:
    x, w, block = vectors(256), vectors(256), byte_vectors(_S_BYTES)
    scale, indices, signs = vectors(8), int_vectors(64), int_vectors(32)
    for tile in range(values.shape[0] // LANES):
        load_tile(x, values, tile)
        error_weights(w, x, importance, tile, _f(2) * sum_squares(256, x) / _f(256))
        _search(x, w, False, 9, ALL_IF_ANY_MISSED, lookup, lists, scale, indices, signs)
        _finish_s(x, scale, indices, signs, block)
        store_tile(out, tile, block)


def iq3_xxs(values: Array, out: Array) -> None:
    book = codebook("IQ3_XXS")
    _iq3_xxs(values, book.lookup, book.lists, out)


def iq3_xxs_weighted(values: Array, importance: Array, out: Array) -> None:
    book = codebook("IQ3_XXS")
    _iq3_xxs_weighted(values, importance, book.lookup, book.lists, out)


def iq3_s(values: Array, out: Array) -> None:
    book = codebook("IQ3_S")
    _iq3_s(values, book.lookup, book.lists, out)


def iq3_s_weighted(values: Array, importance: Array, out: Array) -> None:
    book = codebook("IQ3_S")
    _iq3_s_weighted(values, importance, book.lookup, book.lists, out)
