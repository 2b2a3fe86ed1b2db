"""IQ3_XXS and IQ3_S: groups of 4 magnitudes from a codebook, signs apart, a 4-bit scale for every 32 weights."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.exact.codebook import (
    ALL_IF_ANY_MISSED,
    MISSES,
    Trials,
    entries,
    fit,
    four_bit_scales,
    magnitudes,
    scale_step,
)
from hubquant.quants.cpu.exact.search import extreme
from hubquant.quants.cpu.vector.block import half_bits, maximum, put_half
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block_twice, by_square, framed
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    any_lane,
    int_vectors,
    offset,
    put_byte,
    splat_int,
    sqrt,
    vectors,
    where,
)
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO, _ONE, _HALF = _f(0), _f(1), _f(0.5)
_TINY = _f(1e-8)
_XXS_TRIALS = Trials(8, 4, 3, 15, _f(0.2), MISSES)
_S_TRIALS = Trials(8, 4, 3, 9, _f(0.2), ALL_IF_ANY_MISSED)
_XXS_D, _XXS_QS = (TYPES["IQ3_XXS"].offset(name) for name in ("d", "qs"))
_S_D, _S_QS, _S_QH, _S_SIGNS, _S_SCALES = (TYPES["IQ3_S"].offset(name) for name in ("d", "qs", "qh", "signs", "scales"))


@primitive
def _search(
    x: Pointer,
    w: Pointer,
    even: bool,
    trials: Trials,
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
        found = fit(trials, values, sub_w, root, high, high / _f(15), lookup, lists, sub_keys)
        alive = high >= _TINY if even else high > _ZERO
        negative = found < _ZERO
        scale[j] = where(alive, where(negative, -found, found), _ZERO)
        for g in range(4):
            sign = where(negative, sub_signs[g] ^ (127 if even else 255), sub_signs[g])
            sub_signs[g] = where(alive, sign, 0)
        for g in range(8):
            sub_keys[g] = where(alive, entries(sub_keys[g], lookup), 0)


# ---- storing: the bits of d, scales 0 … 15, indices of the 64 groups, 32 bytes of signs -----------------------------


@primitive
def put_xxs(block: Pointer, d: Vector, scales: Pointer, indices: Pointer, signs: Pointer) -> None:
    """Bytes of indices; for each 32 weights a word of four times 7 signs and the scale."""
    put_half(block, _XXS_D, d)
    for g in range(64):
        put_byte(block, _XXS_QS + g, indices[g])
    for j in range(8):
        word = scales[j] << 28
        for g in range(4):
            word = word | signs[4 * j + g] << (7 * g)
        for b in range(4):
            put_byte(block, _XXS_QS + 64 + 4 * j + b, word >> (8 * b))


@primitive
def put_s_high(block: Pointer, indices: Pointer) -> None:
    """The ninth bits of indices."""
    for j in range(8):
        high = splat_int(0)
        for g in range(8):
            high = high | (indices[8 * j + g] >> 8) << g
        put_byte(block, _S_QH + j, high)


@primitive
def put_s_low(block: Pointer, d: Vector, scales: Pointer, indices: Pointer, signs: Pointer) -> None:
    """All but the ninth bits of indices."""
    put_half(block, _S_D, d)
    for g in range(64):
        put_byte(block, _S_QS + g, indices[g])
    for g in range(32):
        put_byte(block, _S_SIGNS + g, signs[g])
    for j in range(4):
        put_byte(block, _S_SCALES + j, scales[2 * j] | scales[2 * j + 1] << 4)


# ---- the types ------------------------------------------------------------------------------------------------------


@primitive
def _search_xxs(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, indices, signs = vectors(8), int_vectors(8), int_vectors(64), int_vectors(32)
    _search(x, w, True, _XXS_TRIALS, lookup, lists, scale, indices, signs)
    step = scale_step(8, scale)
    four_bit_scales(8, scale, step, codes)
    put_xxs(block, half_bits(step * _f(1.0125)), codes, indices, signs)


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
def _search_s(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, indices, signs = vectors(8), int_vectors(8), int_vectors(64), int_vectors(32)
    _search(x, w, False, _S_TRIALS, lookup, lists, scale, indices, signs)
    step = scale_step(8, scale)
    four_bit_scales(8, scale, step, codes)
    put_s_high(block, indices)
    _close_gaps(x, 8, indices)
    _close_gaps(x, 4, signs)
    put_s_low(block, half_bits(step * _f(1.033)), codes, indices, signs)


iq3_xxs = framed("iq3_xxs", "IQ3_XXS", _search_xxs, by_square)
iq3_xxs_weighted = framed("iq3_xxs_weighted", "IQ3_XXS", _search_xxs, by_block_twice)
iq3_s = framed("iq3_s", "IQ3_S", _search_s, by_square)
iq3_s_weighted = framed("iq3_s_weighted", "IQ3_S", _search_s, by_block_twice)
