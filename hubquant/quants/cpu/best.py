"""The kernels of the mode "best"."""

from __future__ import annotations

from collections.abc import Mapping

from hubquant.quants.cpu import best_float4, best_k, best_legacy, best_nonlinear, best_ternary
from hubquant.quants.cpu.rows import KERNELS, Kernels

BEST_KERNELS: Mapping[str, Kernels] = {
    "Q4_0": Kernels(best_legacy.q4_0, best_legacy.q4_0_weighted, row_power=True),
    "Q4_1": Kernels(best_legacy.q4_1, best_legacy.q4_1_weighted, row_power=True),
    "Q5_0": Kernels(best_legacy.q5_0, best_legacy.q5_0_weighted, row_power=True),
    "Q5_1": Kernels(best_legacy.q5_1, best_legacy.q5_1_weighted, row_power=True),
    "Q8_0": Kernels(best_legacy.q8_0, best_legacy.q8_0_weighted),
    "Q2_K": Kernels(best_k.q2_k, best_k.q2_k_weighted),
    "Q3_K": KERNELS["Q3_K"],  # searches with a smaller weighted error gave a larger divergence on the demo model
    "Q4_K": Kernels(best_k.q4_k, best_k.q4_k_weighted),
    "Q5_K": Kernels(best_k.q5_k, best_k.q5_k_weighted),
    "Q6_K": Kernels(best_k.q6_k, best_k.q6_k_weighted),
    "IQ4_NL": Kernels(best_nonlinear.iq4_nl, best_nonlinear.iq4_nl_weighted),
    "IQ4_XS": Kernels(best_nonlinear.iq4_xs, best_nonlinear.iq4_xs_weighted),
    "MXFP4": Kernels(best_float4.mxfp4, best_float4.mxfp4_weighted),
    "NVFP4": Kernels(best_float4.nvfp4, best_float4.nvfp4_weighted),
    "TQ1_0": Kernels(best_ternary.tq1_0, best_ternary.tq1_0_weighted),
    "TQ2_0": Kernels(best_ternary.tq2_0, best_ternary.tq2_0_weighted),
    "Q1_0": Kernels(best_ternary.q1_0, best_ternary.q1_0_weighted),
    "Q2_0": Kernels(best_ternary.q2_0, best_ternary.q2_0_weighted),
}
