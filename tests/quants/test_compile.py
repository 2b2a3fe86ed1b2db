"""Kernels are compiled in several threads at once."""

from __future__ import annotations

import subprocess
import sys

LOCKED = """
from threading import Thread
from hubquant.quants.cpu.vector.compile import global_compiler_lock, primitive

def of_a_kernel(x):
    return x + 1

with global_compiler_lock:  # as a thread that compiles has it
    other = Thread(target=primitive, args=(of_a_kernel,), daemon=True)  # as a module with kernels does on import
    other.start()
    other.join(30)
    print("waits" if other.is_alive() else "went on", flush=True)
    import os
    os._exit(0)
"""


def test_a_module_is_imported_while_a_kernel_is_compiled() -> None:
    """In Python 3.11 a lock is kept while numba first makes its context for the CPU, which takes numba's own lock."""
    done = subprocess.run([sys.executable, "-c", LOCKED], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "went on\n"
