"""IQ3_XXS and IQ3_S with a lower error than llama.cpp's: what :mod:`best.codebook` searches with."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.codebook import Trials, entry_codes, fit_block, normalize
from hubquant.quants.cpu.best.nearest import IQ3_S, IQ3_XXS
from hubquant.quants.cpu.exact.codebook import magnitudes
from hubquant.quants.cpu.exact.iq3 import put_s_high, put_s_low, put_xxs
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block_evenly, by_block_twice, framed
from hubquant.quants.cpu.vector.simd import Pointer, int_vectors, vectors

_f = np.float32
_XXS, _S = Trials(8, 5, _f(3)), Trials(8, 3, _f(2.5))


@primitive
def _search_xxs(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, codes = vectors(256), vectors(8), int_vectors(8)
    keys, signs = int_vectors(64), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, True, values, signs)
    d = fit_block("IQ3_XXS", IQ3_XXS, _XXS, values, w, power, scale, keys)
    entry_codes(8, 64, scale, keys, index, codes)
    put_xxs(block, d, codes, keys, signs)


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, codes = vectors(256), vectors(8), int_vectors(8)
    keys, signs = int_vectors(64), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, False, values, signs)
    d = fit_block("IQ3_S", IQ3_S, _S, values, w, power, scale, keys)
    entry_codes(8, 64, scale, keys, index, codes)
    put_s_high(block, keys)
    put_s_low(block, d, codes, keys, signs)


iq3_xxs = framed("iq3_xxs", "IQ3_XXS", _search_xxs, by_block_evenly)
iq3_xxs_weighted = framed("iq3_xxs_weighted", "IQ3_XXS", _search_xxs, by_block_twice)
iq3_s = framed("iq3_s", "IQ3_S", _search_s, by_block_evenly)
iq3_s_weighted = framed("iq3_s_weighted", "IQ3_S", _search_s, by_block_twice)
