"""Compile kernels with numba.

Public numba would compile every function of a kernel three times over (alone, with its callers, and once more when it
is loaded) and would not give its machine code away. So this module uses what numba documents for extensions
(``pipeline_class``, the passes) and, in :func:`_compile` and below, parts of it that are private. It was written for
numba 0.68; pyproject.toml excludes others until the tests of this room have passed with them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
from numba import njit, types
from numba.core.cgutils import normalize_ir_text
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.typed_passes import (
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NoPythonSupportedFeatureValidation,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, GenericRewrites, IRProcessing, ReconstructSSA, TranslateByteCode

from hubquant.quants.cpu.vector.native import Kernel, Kinds, Machine

# Made here and not by the first two threads that want it: in Python 3.11 one of them could wait for numba's lock with
# the lock of this cached property, and the other the other way round.
_CONTEXT = cpu_target.target_context

_F = TypeVar("_F", bound=Callable[..., Any])
Signature = tuple[types.Type, ...]


class _Compiler(CompilerBase):  # type: ignore[misc]
    """numba's passes but for those that have nothing to do in kernels, which know no closures, exceptions or array
    expressions.
    """

    def define_pipelines(self) -> list[PassManager]:
        passes = PassManager("kernel")
        for each in (
            TranslateByteCode,
            FixupArgs,
            IRProcessing,
            GenericRewrites,  # a tuple's items have types of their own
            ReconstructSSA,
            NopythonTypeInference,
            PreLowerStripPhis,
            NoPythonSupportedFeatureValidation,
            AnnotateTypes,
            NativeLowering,
            NoPythonBackend,
        ):
            passes.add_pass(each, each._name)
        passes.finalize()
        return [passes]


def _jit(function: Callable[..., Any], forceinline: bool = False) -> Any:
    return njit(
        error_model="numpy",
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        forceinline=forceinline,
        pipeline_class=_Compiler,
    )(function)


def primitive(function: _F) -> _F:
    """A function that kernels call; it is compiled into each of them.

    ``error_model="numpy"``: division by zero gives infinity as in C. Never fastmath: sums keep their order and NaN its
    meaning.
    """
    return cast(_F, _jit(function))


def inlined(function: _F) -> _F:
    """A primitive that must see its arguments as constants: it is copied into each caller."""
    return cast(_F, _jit(function, forceinline=True))


def kernel(function: Callable[..., None]) -> Kernel:
    """An entry point: a function of arrays, callable from Python without the GIL, kept on disk as machine code."""
    return make_kernel(function, function.__module__, function.__qualname__)


def make_kernel(
    function: Callable[..., None],
    module: str,
    name: str,
    group: Callable[[Signature], Signature] = tuple,
) -> Kernel:
    """``group`` makes the types of the function's arguments, which may be tuples of arrays, from the arrays' types."""

    def compile_for(kinds: Kinds) -> Machine:
        arrays = tuple(types.Array(getattr(types, dtype), ndim, "C") for dtype, ndim in kinds)
        return _compile(function, group(arrays))

    return Kernel(module, name, compile_for)


# Kernels own no memory, so nothing needs to be counted.
_NO_COUNTING = """
define void @NRT_incref(ptr %memory) alwaysinline { ret void }
define void @NRT_decref(ptr %memory) alwaysinline { ret void }
"""


def _compile(function: Callable[..., None], signature: Signature) -> Machine:
    """numba's front end, then all functions together once through LLVM, with no other entry than the kernel."""
    with global_compiler_lock:
        with _unfinished_libraries() as codegen:
            dispatcher = _jit(function)
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
        passes, builder = codegen._module_pass_manager()
        passes.run(module, builder)
        module.verify()
        needed = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
        # What any process can provide; code that needs more is of no use to another.
        known = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None)
        movable = all(hasattr(known, name) for name in needed)
        library._finalize_final_module()
        code = library._get_compiled_object() if movable else None
        return Machine(symbol, library.get_pointer_to_function(symbol), code, library)


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
    context = _CONTEXT
    context.refresh()  # numba's own functions are finished as ever
    codegen = context.codegen()
    codegen._library_class = _UnfinishedLibrary
    codegen.set_env = lambda _name, _env: None  # which would look for machine code that does not exist
    # numba looks hundreds of times whether more is registered; intrinsics are, in its first registry
    intrinsics = next(iter(context._registries))
    context.refresh = lambda: context.install_registry(intrinsics)
    types.Function.get_call_type = _remembered(types.Function.get_call_type)
    try:
        yield codegen
    finally:
        del types.Function.get_call_type, context.refresh, codegen._library_class, codegen.set_env


def _remembered(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """numba tries every definition of an operator each time it is used; here once for the same types."""
    known: dict[Any, Any] = {}

    def get_call_type(self: Any, context: Any, args: tuple[Any, ...], kws: Any) -> Any:
        key = (self, args)
        if key not in known:
            known[key] = resolve(self, context, args, kws)
        return known[key]

    return get_call_type
