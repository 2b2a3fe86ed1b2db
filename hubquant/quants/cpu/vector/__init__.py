"""What kernels are written in: vectors of 16 blocks, a compiler, machine code on disk; and what all searches share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubquant.quants.cpu.vector.native import KernelModule

if not TYPE_CHECKING:

    def __getattr__(name: str) -> KernelModule:
        return KernelModule.within(__name__, name)
