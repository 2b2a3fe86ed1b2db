"""IQ2_XXS, IQ2_XS, IQ2_S: groups of 8 magnitudes from a codebook, signs apart, 4-bit scales for 32 or 16 weights.

Only IQ2_S can do without importance.
"""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.exact.codebook import (
    ALL_GROUPS,
    MISSES,
    Trials,
    entries,
    fit,
    four_bit_scales,
    magnitudes,
    scale_step,
)
from hubquant.quants.cpu.exact.search import positive
from hubquant.quants.cpu.vector.block import half_bits, maximum, put_half
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block, by_block_twice, framed
from hubquant.quants.cpu.vector.simd import (
    Pointer,
    Vector,
    int_vectors,
    offset,
    put_byte,
    splat_int,
    sqrt,
    vectors,
    where,
)
from hubquant.quants.cpu.vector.weights import sum_squares
from hubquant.quants.formats import TYPES

_f = np.float32
_ZERO = _f(0)
_TINY, _TINY_S = _f(1e-15), _f(1e-8)
_FOUR, _TWO = Trials(4, 8, 2, 6, _f(0.1), ALL_GROUPS), Trials(2, 8, 2, 9, _f(0.1), MISSES)
_XXS_D, _XXS_QS = (TYPES["IQ2_XXS"].offset(name) for name in ("d", "qs"))
_XS_D, _XS_QS, _XS_SCALES = (TYPES["IQ2_XS"].offset(name) for name in ("d", "qs", "scales"))
_S_D, _S_QS, _S_QH, _S_SCALES = (TYPES["IQ2_S"].offset(name) for name in ("d", "qs", "qh", "scales"))


@primitive
def _search(
    groups: int,
    x: Pointer,
    w: Pointer,
    even: bool,
    lookup: Array,
    lists: Array,
    scale: Pointer,
    keys: Pointer,
    signs: Pointer,
) -> None:
    """Scales of the sub-blocks of ``groups`` groups, and for each of the 32 groups its entry and its sign bits.

    Sub-blocks of 4 groups (IQ2_XXS) first find by a search over plain integers what the largest level should stand for.
    """
    size = 8 * groups
    values, root, codes = vectors(32), vectors(32), vectors(32)
    for j in range(32 // groups):
        sub_w, sub_signs, sub_keys = offset(w, size * j), offset(signs, groups * j), offset(keys, groups * j)
        magnitudes(size, offset(x, size * j), sub_w, even, values, sub_signs)
        high = values[0]
        for i in range(size):
            root[i] = sqrt(sub_w[i])
            high = maximum(high, values[i])
        alive = high >= (_TINY if even else _TINY_S)
        if groups == 4:
            unit = positive(32, _f(4), values, sub_w, codes)
            high = unit * _f(3)
            alive = alive & (high > _ZERO)
            found = fit(_FOUR, values, sub_w, root, high, unit, lookup, lists, sub_keys)
        else:
            found = fit(_TWO, values, sub_w, root, high, high / _f(5), lookup, lists, sub_keys)
        negative = found < _ZERO
        scale[j] = where(alive, where(negative, -found, found), _ZERO)
        for g in range(groups):
            sign = where(negative, sub_signs[g] ^ (127 if even else 255), sub_signs[g])
            sub_signs[g] = where(alive, sign, 0)
            sub_keys[g] = where(alive, entries(sub_keys[g], lookup), 0)


# ---- storing: the bits of d, scales 0 … 15, indices and sign bits of the 32 groups ----------------------------------


@primitive
def put_xxs(block: Pointer, d: Vector, scales: Pointer, indices: Pointer, signs: Pointer) -> None:
    """For each 32 weights four bytes of indices, and a word of four times 7 signs and the scale."""
    put_half(block, _XXS_D, d)
    for j in range(8):
        word = scales[j] << 28
        for g in range(4):
            word = word | signs[4 * j + g] << (7 * g)
        for b in range(4):
            put_byte(block, _XXS_QS + 8 * j + b, indices[4 * j + b])
            put_byte(block, _XXS_QS + 8 * j + 4 + b, word >> (8 * b))


@primitive
def put_xs(block: Pointer, d: Vector, scales: Pointer, indices: Pointer, signs: Pointer) -> None:
    """For each group a word of 9 bits of index and 7 signs."""
    put_half(block, _XS_D, d)
    for g in range(32):
        word = indices[g] | signs[g] << 9
        put_byte(block, _XS_QS + 2 * g, word)
        put_byte(block, _XS_QS + 2 * g + 1, word >> 8)
    for j in range(8):
        put_byte(block, _XS_SCALES + j, scales[2 * j] | scales[2 * j + 1] << 4)


@primitive
def put_s(block: Pointer, d: Vector, scales: Pointer, indices: Pointer, signs: Pointer) -> None:
    """Bytes of indices and of signs, and the ninth and tenth bits of indices apart."""
    put_half(block, _S_D, d)
    for g in range(32):
        put_byte(block, _S_QS + g, indices[g])
        put_byte(block, _S_QS + 32 + g, signs[g])
    for j in range(8):
        high = splat_int(0)
        for g in range(4):
            high = high | (indices[4 * j + g] >> 8) << (2 * g)
        put_byte(block, _S_QH + j, high)
        put_byte(block, _S_SCALES + j, scales[2 * j] | scales[2 * j + 1] << 4)


# ---- the types ------------------------------------------------------------------------------------------------------


@primitive
def _search_xxs(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, indices, signs = vectors(8), int_vectors(8), int_vectors(32), int_vectors(32)
    _search(4, x, w, True, lookup, lists, scale, indices, signs)
    step = scale_step(8, scale)
    four_bit_scales(8, scale, step, codes)
    put_xxs(block, half_bits(step), codes, indices, signs)


@primitive
def _search_xs(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, indices, signs = vectors(16), int_vectors(16), int_vectors(32), int_vectors(32)
    _search(2, x, w, True, lookup, lists, scale, indices, signs)
    step = scale_step(16, scale)
    four_bit_scales(16, scale, step, codes)
    put_xs(block, half_bits(step), codes, indices, signs)


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, lookup: Array, lists: Array) -> None:
    scale, codes, indices, signs = vectors(16), int_vectors(16), int_vectors(32), int_vectors(32)
    _search(2, x, w, False, lookup, lists, scale, indices, signs)
    step = scale_step(16, scale)
    four_bit_scales(16, scale, step, codes)
    put_s(block, half_bits(step * _f(0.9875)), codes, indices, signs)


@primitive
def _by_square_and_mean(size: int, w: Pointer, x: Pointer, _given: tuple[()], _tile: int) -> None:
    """``w`` = mean x² / 2 + x²"""
    mean_square = _f(2) * sum_squares(size, x) / _f(size)
    for i in range(size):
        w[i] = _f(0.25) * mean_square + x[i] * x[i]


iq2_xxs_weighted = framed("iq2_xxs_weighted", "IQ2_XXS", _search_xxs, by_block)
iq2_xs_weighted = framed("iq2_xs_weighted", "IQ2_XS", _search_xs, by_block)
iq2_s = framed("iq2_s", "IQ2_S", _search_s, _by_square_and_mean)
iq2_s_weighted = framed("iq2_s_weighted", "IQ2_S", _search_s, by_block_twice)
