"""IQ2_XXS, IQ2_XS, IQ2_S with a lower error than llama.cpp's: :mod:`codebook` searches, here are the layouts."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.codebook import fit_block, normalize
from hubquant.quants.cpu.best.nearest import SHAPES
from hubquant.quants.cpu.exact.codebook import entries, magnitudes
from hubquant.quants.cpu.vector.block import put_half
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block, by_block_evenly, by_block_twice, framed
from hubquant.quants.cpu.vector.simd import Pointer, int_vectors, put_byte, splat_int, to_int, vectors
from hubquant.quants.formats import TYPES

_f = np.float32
_SHAPE = SHAPES["IQ2"]
_XXS, _XS, _S = TYPES["IQ2_XXS"], TYPES["IQ2_XS"], TYPES["IQ2_S"]
_XXS_D, _XXS_QS = _XXS.offset("d"), _XXS.offset("qs")
_XS_D, _XS_QS, _XS_SCALES = _XS.offset("d"), _XS.offset("qs"), _XS.offset("scales")
_S_D, _S_QS, _S_QH, _S_SCALES = (_S.offset(name) for name in ("d", "qs", "qh", "scales"))


@primitive
def _search_xxs(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, keys, signs = vectors(256), vectors(8), int_vectors(32), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, True, values, signs)
    put_half(block, _XXS_D, fit_block("IQ2_XXS", _SHAPE, 4, 8, _f(2), values, w, power, scale, keys))
    for j in range(8):
        word = to_int(scale[j]) << 28
        for g in range(4):
            put_byte(block, _XXS_QS + 8 * j + g, entries(keys[4 * j + g], index))
            word = word | signs[4 * j + g] << (7 * g)
        for b in range(4):
            put_byte(block, _XXS_QS + 8 * j + 4 + b, word >> (8 * b))


@primitive
def _search_xs(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, keys, signs = vectors(256), vectors(16), int_vectors(32), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, True, values, signs)
    put_half(block, _XS_D, fit_block("IQ2_XS", _SHAPE, 2, 8, _f(2), values, w, power, scale, keys))
    for g in range(32):
        word = entries(keys[g], index) | signs[g] << 9
        put_byte(block, _XS_QS + 2 * g, word)
        put_byte(block, _XS_QS + 2 * g + 1, word >> 8)
    for j in range(8):
        put_byte(block, _XS_SCALES + j, to_int(scale[2 * j]) | to_int(scale[2 * j + 1]) << 4)


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, keys, signs = vectors(256), vectors(16), int_vectors(32), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, False, values, signs)
    put_half(block, _S_D, fit_block("IQ2_S", _SHAPE, 2, 3, _f(1.5), values, w, power, scale, keys))
    for j in range(8):
        high = splat_int(0)
        for g in range(4):
            entry = entries(keys[4 * j + g], index)
            put_byte(block, _S_QS + 4 * j + g, entry)
            put_byte(block, _S_QS + 32 + 4 * j + g, signs[4 * j + g])
            high = high | (entry >> 8) << (2 * g)
        put_byte(block, _S_QH + j, high)
        put_byte(block, _S_SCALES + j, to_int(scale[2 * j]) | to_int(scale[2 * j + 1]) << 4)


iq2_xxs_weighted = framed("iq2_xxs_weighted", "IQ2_XXS", _search_xxs, by_block)
iq2_xs_weighted = framed("iq2_xs_weighted", "IQ2_XS", _search_xs, by_block)
iq2_s = framed("iq2_s", "IQ2_S", _search_s, by_block_evenly)
iq2_s_weighted = framed("iq2_s_weighted", "IQ2_S", _search_s, by_block_twice)
