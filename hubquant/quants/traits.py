"""What is known of every type, one row each; the layout of its blocks is in :mod:`formats`.

CONTRIBUTING.md says what to write for a new type. Kernels are named without importing numba.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from hubquant.quants import layout
from hubquant.quants.cpu import best, decode, exact
from hubquant.quants.cpu.best.ternary_grid import flip_tables
from hubquant.quants.cpu.decode.tables import float4_levels, grid, iq4_levels
from hubquant.quants.cpu.hifi import with_outliers
from hubquant.quants.cpu.rows import Decoder, Kernels
from hubquant.quants.cpu.vector.grids import index_table, search_tables
from hubquant.quants.levels import FLOAT4, IQ4, Levels
from hubquant.quants.tensor import TensorSearch, codebook_types, searches, weights


@dataclass(frozen=True)
class TypeTraits:
    """``values``: members of blocks (:func:`layout.members`) -> float32 [blocks, block_size], on any device; None where
    the CPU decodes them for all. ``decoder`` does the same there with a kernel, None where there is nothing to decode.

    How it is written: converted to ``dtype``; or by kernels on the CPU, ``exact`` with llama.cpp's bytes, ``best`` with
    a smaller error, and by ``search`` with as small a one on other devices, the CPU's kernels where that is None.

    ``levels``: what codes stand for, None where they are shared by several weights.
    """

    values: Callable[[dict[str, Tensor]], Tensor] | None
    dtype: torch.dtype | None = None
    decoder: Decoder | None = None
    exact: Kernels | None = None
    best: Kernels | None = None
    search: TensorSearch | None = None
    levels: Levels | None = None

    @property
    def implemented(self) -> bool:
        """Whether the type can be written."""
        return self.dtype is not None or self.best is not None

    @property
    def needs_importance(self) -> bool:
        """Whether it would be of no use without importance."""
        return self.best is not None and self.best.plain is None


_ROWS = {
    "F32": TypeTraits(layout.plain, torch.float32),
    "F16": TypeTraits(layout.plain, torch.float16),
    "BF16": TypeTraits(layout.plain, torch.bfloat16),
    **dict.fromkeys(("F64", "I8", "I16", "I32", "I64"), TypeTraits(layout.plain)),
    "Q8_1": TypeTraits(layout.q8, decoder=Decoder(decode.legacy.q8_1)),
    "Q8_K": TypeTraits(layout.q8, decoder=Decoder(decode.legacy.q8_k)),
    "Q4_0": TypeTraits(
        layout.q4_0,
        decoder=Decoder(decode.legacy.q4_0),
        exact=Kernels(exact.legacy.q4_0, exact.legacy.q4_0_weighted, row_power=True),
        best=Kernels(best.legacy.q4_0, best.legacy.q4_0_weighted, row_power=True),
        search=TensorSearch(searches.q4_0, weights.by_one, weights.by_row, row_power=True),
        levels=Levels(16),
    ),
    "Q4_1": TypeTraits(
        layout.q4_1,
        decoder=Decoder(decode.legacy.q4_1),
        exact=Kernels(exact.legacy.q4_1, exact.legacy.q4_1_weighted, row_power=True),
        best=Kernels(best.legacy.q4_1, best.legacy.q4_1_weighted, row_power=True),
        search=TensorSearch(searches.q4_1, weights.by_one, weights.by_row, row_power=True),
        levels=Levels(16),
    ),
    "Q5_0": TypeTraits(
        layout.q5_0,
        decoder=Decoder(decode.legacy.q5_0),
        exact=Kernels(exact.legacy.q5_0, exact.legacy.q5_0_weighted, row_power=True),
        best=Kernels(best.legacy.q5_0, best.legacy.q5_0_weighted, row_power=True),
        search=TensorSearch(searches.q5_0, weights.by_one, weights.by_row, row_power=True),
        levels=Levels(32),
    ),
    "Q5_1": TypeTraits(
        layout.q5_1,
        decoder=Decoder(decode.legacy.q5_1),
        exact=Kernels(exact.legacy.q5_1, exact.legacy.q5_1_weighted, row_power=True),
        best=Kernels(best.legacy.q5_1, best.legacy.q5_1_weighted, row_power=True),
        search=TensorSearch(searches.q5_1, weights.by_one, weights.by_row, row_power=True),
        levels=Levels(32),
    ),
    "Q8_0": TypeTraits(
        layout.q8,
        decoder=Decoder(decode.legacy.q8_0),
        exact=Kernels(exact.legacy.q8_0, None),
        best=Kernels(best.legacy.q8_0, best.legacy.q8_0_weighted),
        search=TensorSearch(searches.q8_0, weights.by_one, weights.by_importance),
        levels=Levels(255, low=0x81, high=0x7F),
    ),
    "Q2_K": TypeTraits(
        layout.q2_k,
        decoder=Decoder(decode.k_quants.q2_k),
        exact=Kernels(exact.k_quants.q2_k, exact.k_quants.q2_k_weighted),
        best=Kernels(best.k_quants.q2_k, best.k_quants.q2_k_weighted),
        search=TensorSearch(searches.q2_k, weights.by_magnitude, weights.by_block),
        levels=Levels(4),
    ),
    "Q3_K": TypeTraits(
        layout.q3_k,
        decoder=Decoder(decode.k_quants.q3_k),
        exact=Kernels(exact.k_quants.q3_k, exact.k_quants.q3_k_weighted),
        best=Kernels(best.k_quants.q3_k, best.k_quants.q3_k_weighted),
        search=TensorSearch(searches.q3_k, weights.by_block_evenly, weights.by_block_twice),
        levels=Levels(8),
    ),
    "Q4_K": TypeTraits(
        layout.q4_k,
        decoder=Decoder(decode.k_quants.q4_k),
        exact=Kernels(exact.k_quants.q4_k, exact.k_quants.q4_k_weighted),
        best=Kernels(best.k_quants.q4_k, best.k_quants.q4_k_weighted),
        search=TensorSearch(searches.q4_k, weights.by_spread, weights.by_block_twice),
        levels=Levels(16),
    ),
    "Q5_K": TypeTraits(
        layout.q5_k,
        decoder=Decoder(decode.k_quants.q5_k),
        exact=Kernels(exact.k_quants.q5_k, exact.k_quants.q5_k_weighted),
        best=Kernels(best.k_quants.q5_k, best.k_quants.q5_k_weighted),
        search=TensorSearch(searches.q5_k, weights.by_spread, weights.by_block_twice),
        levels=Levels(32),
    ),
    "Q6_K": TypeTraits(
        layout.q6_k,
        decoder=Decoder(decode.k_quants.q6_k),
        exact=Kernels(exact.k_quants.q6_k, exact.k_quants.q6_k_weighted),
        best=Kernels(best.k_quants.q6_k, best.k_quants.q6_k_weighted),
        search=TensorSearch(searches.q6_k, weights.by_one, weights.by_importance),
        levels=Levels(64),
    ),
    "IQ2_XXS": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq2_xxs, partial(grid, "IQ2_XXS")),
        exact=Kernels(None, exact.iq2.iq2_xxs_weighted, tables=partial(search_tables, "IQ2_XXS")),
        best=Kernels(None, best.iq2.iq2_xxs_weighted, tables=partial(index_table, "IQ2_XXS")),
        search=TensorSearch(codebook_types.iq2_xxs, weights.by_square, weights.by_block),
    ),
    "IQ2_XS": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq2_xs, partial(grid, "IQ2_XS")),
        exact=Kernels(None, exact.iq2.iq2_xs_weighted, tables=partial(search_tables, "IQ2_XS")),
        best=Kernels(None, best.iq2.iq2_xs_weighted, tables=partial(index_table, "IQ2_XS")),
        search=TensorSearch(codebook_types.iq2_xs, weights.by_square, weights.by_block),
    ),
    "IQ2_S": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq2_s, partial(grid, "IQ2_S")),
        exact=Kernels(exact.iq2.iq2_s, exact.iq2.iq2_s_weighted, tables=partial(search_tables, "IQ2_S")),
        best=Kernels(best.iq2.iq2_s, best.iq2.iq2_s_weighted, tables=partial(index_table, "IQ2_S")),
        search=TensorSearch(codebook_types.iq2_s, weights.by_block_evenly, weights.by_block_twice),
    ),
    "IQ3_XXS": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq3_xxs, partial(grid, "IQ3_XXS")),
        exact=Kernels(exact.iq3.iq3_xxs, exact.iq3.iq3_xxs_weighted, tables=partial(search_tables, "IQ3_XXS")),
        best=Kernels(best.iq3.iq3_xxs, best.iq3.iq3_xxs_weighted, tables=partial(index_table, "IQ3_XXS")),
        search=TensorSearch(codebook_types.iq3_xxs, weights.by_block_evenly, weights.by_block_twice),
    ),
    "IQ3_S": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq3_s, partial(grid, "IQ3_S")),
        exact=Kernels(exact.iq3.iq3_s, exact.iq3.iq3_s_weighted, tables=partial(search_tables, "IQ3_S")),
        best=Kernels(best.iq3.iq3_s, best.iq3.iq3_s_weighted, tables=partial(index_table, "IQ3_S")),
        search=TensorSearch(codebook_types.iq3_s, weights.by_block_evenly, weights.by_block_twice),
    ),
    "IQ1_S": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq1_s, partial(grid, "IQ1_S")),
        exact=Kernels(None, exact.iq1.iq1_s_weighted, tables=partial(search_tables, "IQ1_S")),
        best=Kernels(None, best.iq1.iq1_s_weighted, tables=flip_tables),
        search=TensorSearch(codebook_types.iq1_s, weights.by_square, weights.by_block_twice),
    ),
    "IQ1_M": TypeTraits(
        None,
        decoder=Decoder(decode.codebook.iq1_m, partial(grid, "IQ1_M")),
        exact=Kernels(exact.iq1.iq1_m, exact.iq1.iq1_m_weighted, tables=partial(search_tables, "IQ1_S")),
        best=Kernels(best.iq1.iq1_m, best.iq1.iq1_m_weighted, tables=flip_tables),
        search=TensorSearch(codebook_types.iq1_m, weights.by_square, weights.by_block_twice),
    ),
    "IQ4_NL": TypeTraits(
        None,
        decoder=Decoder(decode.nonlinear.iq4_nl, iq4_levels),
        exact=Kernels(exact.nonlinear.iq4_nl, exact.nonlinear.iq4_nl_weighted),
        best=Kernels(best.nonlinear.iq4_nl, best.nonlinear.iq4_nl_weighted),
        search=TensorSearch(searches.iq4_nl, weights.by_power, weights.by_block_twice),
        levels=Levels(16, places=IQ4),
    ),
    "IQ4_XS": TypeTraits(
        None,
        decoder=Decoder(decode.nonlinear.iq4_xs, iq4_levels),
        exact=Kernels(exact.nonlinear.iq4_xs, exact.nonlinear.iq4_xs_weighted),
        best=Kernels(best.nonlinear.iq4_xs, best.nonlinear.iq4_xs_weighted),
        search=TensorSearch(searches.iq4_xs, weights.by_power, weights.by_block_twice),
        levels=Levels(16, places=IQ4),
    ),
    "TQ1_0": TypeTraits(
        None,
        decoder=Decoder(decode.ternary.tq1_0),
        exact=Kernels(exact.ternary.tq1_0, None),
        best=Kernels(best.ternary.tq1_0, best.ternary.tq1_0_weighted),
        search=TensorSearch(searches.tq1_0, weights.by_one, weights.by_importance),
        levels=Levels(3),
    ),
    "TQ2_0": TypeTraits(
        layout.q2_0,
        decoder=Decoder(decode.ternary.tq2_0),
        exact=Kernels(exact.ternary.tq2_0, None),
        best=Kernels(best.ternary.tq2_0, best.ternary.tq2_0_weighted),
        search=TensorSearch(searches.tq2_0, weights.by_one, weights.by_importance),
        levels=Levels(3, high=0xAA),
    ),
    "MXFP4": TypeTraits(
        None,
        decoder=Decoder(decode.nonlinear.mxfp4, float4_levels),
        exact=Kernels(exact.float4.mxfp4, None),
        best=Kernels(best.float4.mxfp4, best.float4.mxfp4_weighted),
        search=TensorSearch(searches.mxfp4, weights.by_one, weights.by_importance),
        levels=Levels(16, low=0xFF, high=0x77, places=FLOAT4),
    ),
    "NVFP4": TypeTraits(
        None,
        decoder=Decoder(decode.nonlinear.nvfp4, float4_levels),
        exact=Kernels(exact.float4.nvfp4, None),
        best=Kernels(best.float4.nvfp4, best.float4.nvfp4_weighted),
        search=TensorSearch(searches.nvfp4, weights.by_one, weights.by_importance),
        levels=Levels(16, low=0xFF, high=0x77, places=FLOAT4),
    ),
    "Q1_0": TypeTraits(
        layout.q1_0,
        decoder=Decoder(decode.ternary.q1_0),
        exact=Kernels(exact.ternary.q1_0, None),
        best=Kernels(best.ternary.q1_0, best.ternary.q1_0_weighted),
        search=TensorSearch(searches.q1_0, weights.by_one, weights.by_importance),
        levels=Levels(2),
    ),
    "Q2_0": TypeTraits(
        layout.q2_0,
        decoder=Decoder(decode.ternary.q2_0),
        exact=Kernels(exact.ternary.q2_0, None),
        best=Kernels(best.ternary.q2_0, best.ternary.q2_0_weighted),
        search=TensorSearch(searches.q2_0, weights.by_one, weights.by_importance),
        levels=Levels(4),
    ),
    "Q3_K_HIFI": TypeTraits(
        layout.q3_k_hifi,
        decoder=Decoder(decode.k_quants.q3_k_hifi),
        exact=with_outliers(Kernels(exact.k_quants.q3_k, exact.k_quants.q3_k_weighted)),
        best=with_outliers(Kernels(best.k_quants.q3_k, best.k_quants.q3_k_weighted)),
        levels=Levels(8),
    ),
}

TRAITS: Mapping[str, TypeTraits] = MappingProxyType(_ROWS)
