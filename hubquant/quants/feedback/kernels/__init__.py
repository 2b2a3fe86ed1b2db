"""Rounding with feedback, for the 16 rows of a tile side by side.

``kernels.passing.pass_on`` names a kernel without importing its module (:class:`KernelModule`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.quants.cpu.vector.native import KernelModule

if TYPE_CHECKING:
    from hubquant.quants.feedback.kernels import book_descent as book_descent
    from hubquant.quants.feedback.kernels import books as books
    from hubquant.quants.feedback.kernels import columns as columns
    from hubquant.quants.feedback.kernels import descent as descent
    from hubquant.quants.feedback.kernels import passing as passing
else:

    def __getattr__(name: str) -> KernelModule:
        return KernelModule.within(__name__, name)
