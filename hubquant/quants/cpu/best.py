"""The kernels of the mode "best"."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hubquant.quants.cpu.grids import index_table
from hubquant.quants.cpu.native import kernel_of
from hubquant.quants.cpu.rows import Kernels
from hubquant.quants.cpu.ternary_grid import flip_tables

_IQ2_XXS, _IQ2_XS, _IQ2_S, _IQ3_XXS, _IQ3_S = (
    partial(index_table, name) for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
)

BEST_KERNELS: Mapping[str, Kernels] = {
    "Q4_0": Kernels(kernel_of("best_legacy.q4_0"), kernel_of("best_legacy.q4_0_weighted"), row_power=True),
    "Q4_1": Kernels(kernel_of("best_legacy.q4_1"), kernel_of("best_legacy.q4_1_weighted"), row_power=True),
    "Q5_0": Kernels(kernel_of("best_legacy.q5_0"), kernel_of("best_legacy.q5_0_weighted"), row_power=True),
    "Q5_1": Kernels(kernel_of("best_legacy.q5_1"), kernel_of("best_legacy.q5_1_weighted"), row_power=True),
    "Q8_0": Kernels(kernel_of("best_legacy.q8_0"), kernel_of("best_legacy.q8_0_weighted")),
    "Q2_K": Kernels(kernel_of("best_k.q2_k"), kernel_of("best_k.q2_k_weighted")),
    "Q3_K": Kernels(kernel_of("best_k.q3_k"), kernel_of("best_k.q3_k_weighted")),
    "Q4_K": Kernels(kernel_of("best_k.q4_k"), kernel_of("best_k.q4_k_weighted")),
    "Q5_K": Kernels(kernel_of("best_k.q5_k"), kernel_of("best_k.q5_k_weighted")),
    "Q6_K": Kernels(kernel_of("best_k.q6_k"), kernel_of("best_k.q6_k_weighted")),
    "IQ2_XXS": Kernels(None, kernel_of("best_iq2.iq2_xxs_weighted", _IQ2_XXS)),
    "IQ2_XS": Kernels(None, kernel_of("best_iq2.iq2_xs_weighted", _IQ2_XS)),
    "IQ2_S": Kernels(kernel_of("best_iq2.iq2_s", _IQ2_S), kernel_of("best_iq2.iq2_s_weighted", _IQ2_S)),
    "IQ3_XXS": Kernels(kernel_of("best_iq3.iq3_xxs", _IQ3_XXS), kernel_of("best_iq3.iq3_xxs_weighted", _IQ3_XXS)),
    "IQ3_S": Kernels(kernel_of("best_iq3.iq3_s", _IQ3_S), kernel_of("best_iq3.iq3_s_weighted", _IQ3_S)),
    "IQ4_NL": Kernels(kernel_of("best_nonlinear.iq4_nl"), kernel_of("best_nonlinear.iq4_nl_weighted")),
    "IQ4_XS": Kernels(kernel_of("best_nonlinear.iq4_xs"), kernel_of("best_nonlinear.iq4_xs_weighted")),
    "MXFP4": Kernels(kernel_of("best_float4.mxfp4"), kernel_of("best_float4.mxfp4_weighted")),
    "NVFP4": Kernels(kernel_of("best_float4.nvfp4"), kernel_of("best_float4.nvfp4_weighted")),
    "IQ1_S": Kernels(None, kernel_of("best_iq1.iq1_s_weighted", flip_tables)),
    "IQ1_M": Kernels(kernel_of("best_iq1.iq1_m", flip_tables), kernel_of("best_iq1.iq1_m_weighted", flip_tables)),
    "TQ1_0": Kernels(kernel_of("best_ternary.tq1_0"), kernel_of("best_ternary.tq1_0_weighted")),
    "TQ2_0": Kernels(kernel_of("best_ternary.tq2_0"), kernel_of("best_ternary.tq2_0_weighted")),
    "Q1_0": Kernels(kernel_of("best_ternary.q1_0"), kernel_of("best_ternary.q1_0_weighted")),
    "Q2_0": Kernels(kernel_of("best_ternary.q2_0"), kernel_of("best_ternary.q2_0_weighted")),
}
