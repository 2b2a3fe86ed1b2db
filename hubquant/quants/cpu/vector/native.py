"""Kernels as machine code: found on disk, or compiled and put there, and called without the GIL.

Nothing here imports numba, whose import and set-up take longer than most matrices: only a kernel that is not on disk
yet brings in its module and the compiler.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Kinds = tuple[tuple[str, int], ...]  # numpy's name of the element type and the number of dimensions of each argument

_ROOM = __name__.removesuffix(".vector.native")  # hubquant.quants.cpu
_FOLDER = Path(__file__).parents[1]
_SOURCES = Path(__file__).parents[4]
_IMPORTS = re.compile(r"^from (hubquant\.quants\.[\w.]+) import ([\w, ]+|\([^)]*\))", re.MULTILINE)
_CHECKSUM = 32


class Kernel:
    """A function of C-contiguous numpy arrays that returns nothing.

    ``compile_for`` is what :func:`compile.kernel` makes; without it, it is taken from the variable ``name`` of
    ``module``, its whole name, when it is needed.
    """

    def __init__(self, module: str, name: str, compile_for: Callable[[Kinds], Machine] | None = None) -> None:
        self.module = module
        self.name = name
        self.compile_for = compile_for
        self._code: dict[Kinds, Machine] = {}
        self._lock = threading.Lock()

    def __call__(self, *arrays: Array) -> None:
        kinds = tuple((array.dtype.name, array.ndim) for array in arrays)
        with self._lock:
            if kinds not in self._code:
                self._code[kinds] = self._machine(kinds)
        self._code[kinds].run(arrays)

    def _machine(self, kinds: Kinds) -> Machine:
        key = _key(self.module, kinds)
        for folder in _folders():
            found = _read(folder / self._file(), key)
            if found is not None:
                return Machine.from_object(*found)
        with _without_collection():
            compile_for = self.compile_for or getattr(import_module(self.module), self.name).compile_for
            machine: Machine = compile_for(kinds)
        if machine.object_code is not None:
            body = key + machine.symbol.encode() + b"\0" + machine.object_code
            any(_write(folder / self._file(), body) for folder in _folders())
        return machine

    def _file(self) -> str:
        return f"{self.module.removeprefix(f'{_ROOM}.')}.{self.name}-{_machine_digest()[:12]}.kernel"


class KernelModule:
    """Stands for a module of kernels that is not imported, as ``from hubquant.quants.cpu.exact import legacy`` gives it
    here: its attributes are its kernels, and one that must be compiled imports it. Type checkers see the module itself.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @classmethod
    @cache
    def within(cls, package: str, name: str) -> KernelModule:
        """Module ``name`` of a package of this room; AttributeError if there is none."""
        if not _source(f"{package}.{name}").is_file():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return cls(f"{package}.{name}")

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("_"):
            raise AttributeError(name)
        found: Kernel = self.__dict__.setdefault(name, Kernel(self._name, name))
        return found


class Machine:
    """A compiled kernel at ``address``, with numba's calling convention (that of 0.68): status f(result*, error**,
    *arguments).

    ``object_code`` is None if no other process could use it: such a kernel is compiled in each.
    """

    def __init__(self, symbol: str, address: int, object_code: bytes | None, keep: object) -> None:
        self.symbol = symbol
        self.object_code = object_code
        self._function = ctypes.CFUNCTYPE(ctypes.c_int32)(address)  # calls release the GIL
        self._keep = keep

    @classmethod
    def from_object(cls, symbol: str, object_code: bytes) -> Machine:
        import llvmlite.binding as llvm

        with _LLVM:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            machine = llvm.Target.from_default_triple().create_target_machine()
            engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
            engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
            engine.finalize_object()
            return cls(symbol, engine.get_function_address(symbol), object_code, engine)

    def run(self, arrays: tuple[Array, ...]) -> None:
        result, error = ctypes.c_void_p(), ctypes.c_void_p()
        words: list[Any] = [ctypes.byref(result), ctypes.byref(error)]
        for array in arrays:
            assert array.flags.c_contiguous
            # memory owner, parent, elements, bytes of one, data, shape, strides
            numbers = (0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides)
            words += [ctypes.c_int64(number) for number in numbers]
        status = self._function(*words)
        if status:
            raise RuntimeError(f"the kernel {self.symbol} failed with status {status}")


_LLVM = threading.Lock()


@contextmanager
def _without_collection() -> Iterator[None]:
    """The compiler makes many objects and little garbage: looking for it would take a tenth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# ---- on disk --------------------------------------------------------------------------------------------------------


def _folders() -> list[Path]:
    """Where machine code may be kept: numba's NUMBA_CACHE_DIR, or beside this room, or the user's cache."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return [Path(chosen)]
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [_FOLDER / "__pycache__", users / "hubquant"]


def _read(path: Path, key: bytes) -> tuple[str, bytes] | None:
    """Symbol and object code; None unless the file is whole and was written for ``key``."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    checksum, body = data[:_CHECKSUM], data[_CHECKSUM:]
    if hashlib.sha256(body).digest() != checksum or body[:_CHECKSUM] != key:
        return None
    symbol, _, code = body[_CHECKSUM:].partition(b"\0")
    return symbol.decode(), code


def _write(path: Path, body: bytes) -> bool:
    """Whether ``body`` could be written, with its checksum before it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hashlib.sha256(body).digest() + body)
        part.replace(path)
    except OSError:
        return False
    return True


def _key(module: str, kinds: Kinds) -> bytes:
    return hashlib.sha256(f"{_source_digest(module)} {kinds}".encode()).digest()


@cache
def _source_digest(module: str) -> str:
    """Changes with the source of a module or of any module of the quants that it imports."""
    digest = hashlib.sha256()
    known = [module, __name__]
    for name in known:  # grows while it is read
        source = _source(name).read_bytes()
        digest.update(source)
        known += [found for found in dict.fromkeys(_imported(source.decode())) if found not in known]
    return digest.hexdigest()


def _source(module: str) -> Path:
    return (_SOURCES / Path(*module.split("."))).with_suffix(".py")


def _imported(source: str) -> Iterator[str]:
    """The modules that a source takes names from, and those that it takes from a package."""
    for origin, names in _IMPORTS.findall(source):
        members = [f"{origin}.{name}" for name in re.findall(r"\w+", names)]
        yield from [origin] if _source(origin).is_file() else [name for name in members if _source(name).is_file()]


def host_processor() -> tuple[str, list[str]]:
    """LLVM's name of the processor that code is compiled for, and of its features."""
    import llvmlite.binding as llvm

    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:
        features = {}
    return llvm.get_host_cpu_name(), sorted(name for name, there in features.items() if there)


@cache
def _machine_digest() -> str:
    """Changes with the processor, the compiler, and the settings of the compiler."""
    import llvmlite.binding as llvm

    settings = [os.environ.get(f"NUMBA_{name}") for name in ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX", "OPT")]
    versions = [metadata.version(package) for package in ("numba", "llvmlite")]
    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:
        features = ""
    machine = (llvm.get_default_triple(), llvm.get_host_cpu_name(), features, versions, settings)
    return hashlib.sha256(repr(machine).encode()).hexdigest()
