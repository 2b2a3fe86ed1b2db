"""The kernels of the mode "best"."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hubquant.quants.cpu import best
from hubquant.quants.cpu.best.ternary_grid import flip_tables
from hubquant.quants.cpu.rows import Kernels
from hubquant.quants.cpu.vector.grids import index_table

_IQ2_XXS, _IQ2_XS, _IQ2_S, _IQ3_XXS, _IQ3_S = (
    partial(index_table, name) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
)

BEST_KERNELS: Mapping[str, Kernels] = {
    "Q4_0": Kernels(best.legacy.q4_0, best.legacy.q4_0_weighted, row_power=True),
    "Q4_1": Kernels(best.legacy.q4_1, best.legacy.q4_1_weighted, row_power=True),
    "Q5_0": Kernels(best.legacy.q5_0, best.legacy.q5_0_weighted, row_power=True),
    "Q5_1": Kernels(best.legacy.q5_1, best.legacy.q5_1_weighted, row_power=True),
    "Q8_0": Kernels(best.legacy.q8_0, best.legacy.q8_0_weighted),
    "Q2_K": Kernels(best.k_quants.q2_k, best.k_quants.q2_k_weighted),
    "Q3_K": Kernels(best.k_quants.q3_k, best.k_quants.q3_k_weighted),
    "Q4_K": Kernels(best.k_quants.q4_k, best.k_quants.q4_k_weighted),
    "Q5_K": Kernels(best.k_quants.q5_k, best.k_quants.q5_k_weighted),
    "Q6_K": Kernels(best.k_quants.q6_k, best.k_quants.q6_k_weighted),
    "IQ2_XXS": Kernels(None, best.iq2.iq2_xxs_weighted.with_tables(_IQ2_XXS)),
    "IQ2_XS": Kernels(None, best.iq2.iq2_xs_weighted.with_tables(_IQ2_XS)),
    "IQ2_S": Kernels(best.iq2.iq2_s.with_tables(_IQ2_S), best.iq2.iq2_s_weighted.with_tables(_IQ2_S)),
    "IQ3_XXS": Kernels(best.iq3.iq3_xxs.with_tables(_IQ3_XXS), best.iq3.iq3_xxs_weighted.with_tables(_IQ3_XXS)),
    "IQ3_S": Kernels(best.iq3.iq3_s.with_tables(_IQ3_S), best.iq3.iq3_s_weighted.with_tables(_IQ3_S)),
    "IQ4_NL": Kernels(best.nonlinear.iq4_nl, best.nonlinear.iq4_nl_weighted),
    "IQ4_XS": Kernels(best.nonlinear.iq4_xs, best.nonlinear.iq4_xs_weighted),
    "MXFP4": Kernels(best.float4.mxfp4, best.float4.mxfp4_weighted),
    "NVFP4": Kernels(best.float4.nvfp4, best.float4.nvfp4_weighted),
    "IQ1_S": Kernels(None, best.iq1.iq1_s_weighted.with_tables(flip_tables)),
    "IQ1_M": Kernels(best.iq1.iq1_m.with_tables(flip_tables), best.iq1.iq1_m_weighted.with_tables(flip_tables)),
    "TQ1_0": Kernels(best.ternary.tq1_0, best.ternary.tq1_0_weighted),
    "TQ2_0": Kernels(best.ternary.tq2_0, best.ternary.tq2_0_weighted),
    "Q1_0": Kernels(best.ternary.q1_0, best.ternary.q1_0_weighted),
    "Q2_0": Kernels(best.ternary.q2_0, best.ternary.q2_0_weighted),
}
