"""Searches with a lower error than llama.cpp's, for the same layouts.

``best.legacy.q4_0`` names a kernel without importing its module (:class:`KernelModule`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.quants.cpu.vector.native import KernelModule

if TYPE_CHECKING:
    from hubquant.quants.cpu.best import float4 as float4
    from hubquant.quants.cpu.best import iq1 as iq1
    from hubquant.quants.cpu.best import iq2 as iq2
    from hubquant.quants.cpu.best import iq3 as iq3
    from hubquant.quants.cpu.best import k_quants as k_quants
    from hubquant.quants.cpu.best import legacy as legacy
    from hubquant.quants.cpu.best import nonlinear as nonlinear
    from hubquant.quants.cpu.best import ternary as ternary
else:

    def __getattr__(name: str) -> KernelModule:
        return KernelModule.within(__name__, name)
