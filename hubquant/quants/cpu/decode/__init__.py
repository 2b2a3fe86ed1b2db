"""The values of stored blocks, with ggml's arithmetic operation by operation.

``decode.legacy.q4_0`` names a kernel without importing its module (:class:`KernelModule`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.quants.cpu.vector.native import KernelModule

if TYPE_CHECKING:
    from hubquant.quants.cpu.decode import codebook as codebook
    from hubquant.quants.cpu.decode import k_quants as k_quants
    from hubquant.quants.cpu.decode import legacy as legacy
    from hubquant.quants.cpu.decode import nonlinear as nonlinear
    from hubquant.quants.cpu.decode import ternary as ternary
else:

    def __getattr__(name: str) -> KernelModule:
        return KernelModule.within(__name__, name)
