"""IQ3_XXS and IQ3_S with a lower error than llama.cpp's: :mod:`codebook` searches, here are the layouts."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.codebook import fit_block, normalize
from hubquant.quants.cpu.best.nearest import SHAPES
from hubquant.quants.cpu.exact.codebook import entries, magnitudes
from hubquant.quants.cpu.vector.block import put_half
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block_evenly, by_block_twice, framed
from hubquant.quants.cpu.vector.simd import Pointer, int_vectors, put_byte, splat_int, to_int, vectors
from hubquant.quants.formats import TYPES

_f = np.float32
_XXS, _S = TYPES["IQ3_XXS"], TYPES["IQ3_S"]
_XXS_SHAPE, _XXS_D, _XXS_QS = SHAPES["IQ3_XXS"], _XXS.offset("d"), _XXS.offset("qs")
_S_SHAPE, _S_D, _S_QS, _S_QH = SHAPES["IQ3_S"], _S.offset("d"), _S.offset("qs"), _S.offset("qh")
_S_SIGNS, _S_SCALES = _S.offset("signs"), _S.offset("scales")


@primitive
def _search_xxs(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, keys, signs = vectors(256), vectors(8), int_vectors(64), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, True, values, signs)
    put_half(block, _XXS_D, fit_block("IQ3_XXS", _XXS_SHAPE, 8, 5, _f(3), values, w, power, scale, keys))
    for g in range(64):
        put_byte(block, _XXS_QS + g, entries(keys[g], index))
    for j in range(8):
        word = to_int(scale[j]) << 28
        for g in range(4):
            word = word | signs[4 * j + g] << (7 * g)
        for b in range(4):
            put_byte(block, _XXS_QS + 64 + 4 * j + b, word >> (8 * b))


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, keys, signs = vectors(256), vectors(8), int_vectors(64), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, False, values, signs)
    put_half(block, _S_D, fit_block("IQ3_S", _S_SHAPE, 8, 3, _f(2.5), values, w, power, scale, keys))
    for j in range(8):
        high = splat_int(0)
        for g in range(8):
            entry = entries(keys[8 * j + g], index)
            put_byte(block, _S_QS + 8 * j + g, entry)
            high = high | (entry >> 8) << g
        put_byte(block, _S_QH + j, high)
    for g in range(32):
        put_byte(block, _S_SIGNS + g, signs[g])
    for j in range(4):
        put_byte(block, _S_SCALES + j, to_int(scale[2 * j]) | to_int(scale[2 * j + 1]) << 4)


iq3_xxs = framed("iq3_xxs", "IQ3_XXS", _search_xxs, by_block_evenly)
iq3_xxs_weighted = framed("iq3_xxs_weighted", "IQ3_XXS", _search_xxs, by_block_twice)
iq3_s = framed("iq3_s", "IQ3_S", _search_s, by_block_evenly)
iq3_s_weighted = framed("iq3_s_weighted", "IQ3_S", _search_s, by_block_twice)
