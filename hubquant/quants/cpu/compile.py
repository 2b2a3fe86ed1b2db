"""Compile kernels with numba."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
from numba import njit, types
from numba.core.cgutils import normalize_ir_text
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from hubquant.quants.cpu.native import Array, Kernel, Kinds, Machine

_F = TypeVar("_F", bound=Callable[..., Any])
Signature = tuple[types.Type, ...]


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


def kernel(function: Callable[..., None]) -> Kernel:
    """An entry point: a function of arrays, callable from Python without the GIL, kept on disk as machine code."""
    return make_kernel(function, function.__module__, function.__qualname__)


def make_kernel(
    function: Callable[..., None],
    module: str,
    name: str,
    group: Callable[[Signature], Signature] = tuple,
    tables: Callable[[], tuple[Array, ...]] = tuple,
) -> Kernel:
    """``group`` makes the types of the function's arguments, which may be tuples of arrays, from the arrays' types."""

    def compile_for(kinds: Kinds) -> Machine:
        arrays = tuple(types.Array(getattr(types, dtype), ndim, "C") for dtype, ndim in kinds)
        return _compile(function, group(arrays))

    return Kernel(module, name, compile_for, tables)


# Kernels own no memory, so nothing needs to be counted.
_NO_COUNTING = """
define void @NRT_incref(ptr %memory) alwaysinline { ret void }
define void @NRT_decref(ptr %memory) alwaysinline { ret void }
"""


def _compile(function: Callable[..., None], signature: Signature) -> Machine:
    """numba's front end, then all functions together once through LLVM, with no other entry than the kernel."""
    with global_compiler_lock:
        with _unfinished_libraries() as codegen:
            dispatcher = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)
            dispatcher.compile(signature)
            (result,) = dispatcher.overloads.values()
        symbol = result.fndesc.llvm_func_name
        library = codegen.create_library(symbol)
        library.enable_object_caching()
        module = library._final_module
        module.link_in(llvm.parse_assembly(_NO_COUNTING))
        result.library.link_into(module)
        for defined in module.functions:
            if not defined.is_declaration:
                defined.linkage = "external" if defined.name == symbol else "internal"
        library._optimize_final_module()
        module.verify()
        needed = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
        known = ctypes.CDLL(None)  # what any process can provide
        assert all(hasattr(known, name) for name in needed), f"{symbol} needs {needed}"
        library._finalize_final_module()
        return Machine(symbol, library.get_pointer_to_function(symbol), library._get_compiled_object(), library)


class _UnfinishedLibrary(JITCodeLibrary):  # type: ignore[misc]
    """Functions to be linked into a kernel: they are optimized and compiled there, once, and not before."""

    def add_ir_module(self, ir_module: Any) -> None:
        self._final_module.link_in(llvm.parse_assembly(normalize_ir_text(str(ir_module))))

    def finalize(self) -> None:
        self._finalized = True

    def link_into(self, module: Any) -> None:
        """Add these functions and all that they call."""
        libraries: list[Any] = [self]
        for library in libraries:  # grows while it is read; callers before what they call
            if isinstance(library, _UnfinishedLibrary):
                module.link_in(library._final_module, preserve=True)
                libraries += [more for more in dict.fromkeys(library._linking_libraries) if more not in libraries]
            else:
                module.link_in(library._get_module_for_linking(), preserve=True)

    def _get_module_for_linking(self) -> Any:
        """For callers outside kernels, which link no more than what they call themselves."""
        whole = llvm.parse_assembly("")
        self.link_into(whole)
        for function in whole.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"
        return whole


@contextmanager
def _unfinished_libraries() -> Iterator[Any]:
    context = cpu_target.target_context
    context.refresh()  # numba's own functions are finished as ever
    codegen = context.codegen()
    codegen._library_class = _UnfinishedLibrary
    codegen.set_env = lambda _name, _env: None  # which would look for machine code that does not exist
    try:
        yield codegen
    finally:
        del codegen._library_class, codegen.set_env
