"""IQ2_XXS, IQ2_XS, IQ2_S with a lower error than llama.cpp's: what :mod:`best.codebook` searches with."""

from __future__ import annotations

import numpy as np

from hubquant.quants.cpu.best.codebook import Trials, entry_codes, fit_block, normalize
from hubquant.quants.cpu.best.nearest import IQ2
from hubquant.quants.cpu.exact.codebook import magnitudes
from hubquant.quants.cpu.exact.iq2 import put_s, put_xs, put_xxs
from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.frame import Array, by_block, by_block_evenly, by_block_twice, framed
from hubquant.quants.cpu.vector.simd import Pointer, int_vectors, vectors

_f = np.float32
_FOUR, _TWO, _TWO_FEW = Trials(4, 8, _f(2)), Trials(2, 8, _f(2)), Trials(2, 3, _f(1.5))


@primitive
def _search_xxs(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, codes = vectors(256), vectors(8), int_vectors(8)
    keys, signs = int_vectors(32), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, True, values, signs)
    d = fit_block("IQ2_XXS", IQ2, _FOUR, values, w, power, scale, keys)
    entry_codes(8, 32, scale, keys, index, codes)
    put_xxs(block, d, codes, keys, signs)


@primitive
def _search_xs(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, codes = vectors(256), vectors(16), int_vectors(16)
    keys, signs = int_vectors(32), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, True, values, signs)
    d = fit_block("IQ2_XS", IQ2, _TWO, values, w, power, scale, keys)
    entry_codes(16, 32, scale, keys, index, codes)
    put_xs(block, d, codes, keys, signs)


@primitive
def _search_s(x: Pointer, w: Pointer, block: Pointer, index: Array) -> None:
    values, scale, codes = vectors(256), vectors(16), int_vectors(16)
    keys, signs = int_vectors(32), int_vectors(32)
    power = normalize(x, w)
    magnitudes(256, x, w, False, values, signs)
    d = fit_block("IQ2_S", IQ2, _TWO_FEW, values, w, power, scale, keys)
    entry_codes(16, 32, scale, keys, index, codes)
    put_s(block, d, codes, keys, signs)


iq2_xxs_weighted = framed("iq2_xxs_weighted", "IQ2_XXS", _search_xxs, by_block)
iq2_xs_weighted = framed("iq2_xs_weighted", "IQ2_XS", _search_xs, by_block)
iq2_s = framed("iq2_s", "IQ2_S", _search_s, by_block_evenly)
iq2_s_weighted = framed("iq2_s_weighted", "IQ2_S", _search_s, by_block_twice)
