"""Compile kernels with numba and keep the machine code on disk, where that is possible."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import FunctionCache

_F = TypeVar("_F", bound=Callable[..., Any])


def primitive(function: _F) -> _F:
    """A function that kernels call; it is compiled into each of them.

    ``error_model="numpy"``: division by zero gives infinity as in C. Never fastmath: sums keep their order and NaN its
    meaning.
    """
    return cast(_F, njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


def inlined(function: _F) -> _F:
    """A primitive that must see its arguments as constants: it is copied into each caller."""
    dispatcher = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)(function)
    return cast(_F, dispatcher)


def kernel(function: _F) -> _F:
    """A compiled entry point: callable from Python without the GIL, cached on disk."""
    dispatcher = njit(error_model="numpy", nogil=True, no_cfunc_wrapper=True)(function)
    with suppress(RuntimeError):  # numba finds no directory it may write to: compile in every process instead
        dispatcher._cache = _KernelCache(function)
    return cast(_F, dispatcher)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache with three differences: a kernel is stale when any file of this room changed, not only its own; the
    primitives a kernel is built from are not part of its key, its qualified name must tell kernels of one function
    apart; and a cache that cannot be read or written is not an error.
    """

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return sig, codegen.magic_tuple(), _room_digest()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with suppress(Exception):
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)


@cache
def _room_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
