"""What flows into the weights of a file while llama.cpp computes with it, seen through ggml's callback at each node.

The layout of ``ggml_tensor`` is that of llama.cpp b11549. A product that ggml itself makes is looked at before
anything is watched: a wheel in which it is not what it should be is refused.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_bool, c_char, c_char_p, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubquant.llamacpp import binding

_F32, _I32 = 0, 26  # ggml's types
_PRODUCTS = {b"MUL_MAT": False, b"MUL_MAT_ID": True}
"""ggml's operations that multiply with a weight: whether it is a stack of experts, of which each row has some."""


class GgmlTensor(Structure):
    """struct ggml_tensor"""


GgmlTensor._fields_ = [
    ("type", c_int32),
    ("buffer", c_void_p),
    ("ne", c_int64 * 4),
    ("nb", c_size_t * 4),
    ("op", c_int32),
    ("op_params", c_int32 * 16),
    ("flags", c_int32),
    ("src", POINTER(GgmlTensor) * 10),
    ("view_src", c_void_p),
    ("view_offs", c_size_t),
    ("data", c_void_p),
    ("name", c_char * 64),
    ("extra", c_void_p),
    ("padding", c_char * 8),
]
_Pointer = POINTER(GgmlTensor)
_Callback = ctypes.CFUNCTYPE(c_bool, _Pointer, c_bool, c_void_p)


class _InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


_SIGNATURES: dict[str, tuple[Any, ...]] = {  # name: (result, *arguments)
    "ggml_backend_tensor_get": (None, _Pointer, c_void_p, c_size_t, c_size_t),
    "ggml_free": (None, c_void_p),
    "ggml_init": (c_void_p, _InitParams),
    "ggml_mul_mat": (_Pointer, c_void_p, _Pointer, _Pointer),
    "ggml_mul_mat_id": (_Pointer, c_void_p, _Pointer, _Pointer, _Pointer),
    "ggml_nbytes": (c_size_t, _Pointer),
    "ggml_new_tensor_3d": (_Pointer, c_void_p, c_int32, c_int64, c_int64, c_int64),
    "ggml_op_name": (c_char_p, c_int32),
    "ggml_set_name": (_Pointer, _Pointer, c_char_p),
}


@dataclass(eq=False)
class ColumnSums:
    """Σx² and Σx, float64 [n_mat, n_in], and the rows of each matrix, int64 [n_mat]."""

    sum2: NDArray[np.float64]
    sum: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_mat: int, n_in: int) -> ColumnSums:
        return cls(np.zeros((n_mat, n_in)), np.zeros((n_mat, n_in)), np.zeros(n_mat, np.int64))


class WatchedFile(binding.LoadedFile):
    """A file whose weights' inputs can be watched. It is run as exactly as llama.cpp can: with a float32 cache, without
    flash attention, and with weights as they are in the file, for others have no names.

    Raises ``BindingError`` where llama.cpp cannot load the file, or has another ``ggml_tensor``.
    """

    def __init__(self, path: str | os.PathLike[str], n_ctx: int, n_threads: int) -> None:
        _library()
        self._sums: dict[str, ColumnSums] | None = None
        self._wanted: Callable[[str], bool] = lambda _: False
        self._error: BaseException | None = None
        self._last: tuple[tuple[int | None, int], ColumnSums] | None = None
        self._callback = _Callback(self._evaluated)
        super().__init__(path, n_ctx, n_threads)

    def _model_params(self) -> binding.ModelParams:
        params = super()._model_params()
        params.use_extra_bufts = False
        return params

    def _context_params(self) -> binding.ContextParams:
        params = super()._context_params()
        params.n_ubatch = self.n_ctx
        params.flash_attn_type = 0
        params.type_k = params.type_v = _F32
        params.cb_eval = ctypes.cast(self._callback, c_void_p)
        return params

    @contextmanager
    def watching(self, wanted: Callable[[str], bool]) -> Iterator[dict[str, ColumnSums]]:
        """By its name the sums of each weight that is ``wanted``, over what is computed meanwhile.

        Rows are counted as llama-imatrix counts them: of a stack of experts for each expert, of any other stack for
        its matrices together, whose columns lie side by side; its lower bound of rows is left out.
        """
        self._sums, self._wanted, self._error = {}, wanted, None
        try:
            yield self._sums
        finally:
            self._sums = self._last = None
        if self._error is not None:
            raise self._error

    def _rows(self, ids: Sequence[int], row_of: Any, width: int) -> binding.F32:
        self._last = None  # the next pass may have other numbers in the same place
        return super()._rows(ids, row_of, width)

    def _evaluated(self, pointer: Any, ask: bool, _data: int | None) -> bool:
        """ggml asks before a node (is it wanted?) and calls again after it."""
        if self._sums is None or self._error is not None:
            return not ask
        try:
            node = pointer.contents
            experts = _PRODUCTS.get(self._lib.ggml_op_name(node.op))
            name = "" if experts is None else node.src[0].contents.name.decode()
            if not self._wanted(name):
                return not ask
            if not ask:
                self._add(name, node, experts=bool(experts))
            return True
        except BaseException as error:  # an exception must not cross the C frames: watching() raises it
            self._error = error
            return False

    def _add(self, name: str, node: Any, *, experts: bool) -> None:
        assert self._sums is not None
        found = self._of_experts(node) if experts else self._of_matrices(node)
        known = self._sums.setdefault(name, ColumnSums.zeros(*found.sum2.shape))
        known.sum2 += found.sum2
        known.sum += found.sum
        known.counts += found.counts

    def _of_matrices(self, node: Any) -> ColumnSums:
        """Matrix i of several gets the slices i, i + matrices, …"""
        n_mat: int = node.src[0].contents.ne[2]
        key = _address(node.src[1]), n_mat
        if self._last is not None and self._last[0] == key:  # queries, keys and values have one input
            return self._last[1]
        x = self._floats(node.src[1])
        x = x.reshape(-1, *x.shape[2:])
        width = n_mat * x.shape[-1]
        sum2 = np.square(x, dtype=np.float64).sum(axis=1).reshape(-1, width).sum(axis=0)
        sum_ = x.sum(axis=1, dtype=np.float64).reshape(-1, width).sum(axis=0)
        rows = np.array([x.shape[0] * x.shape[1] // n_mat])
        self._last = key, ColumnSums(sum2[None], sum_[None], rows)
        return self._last[1]

    def _of_experts(self, node: Any) -> ColumnSums:
        x = self._floats(node.src[1])
        x = x.reshape(-1, *x.shape[2:])  # [tokens, used experts or 1, n_in]
        ids = self._read(node.src[2], np.int32, _I32)[0, 0]  # [tokens, used experts]
        sums = ColumnSums.zeros(node.src[0].contents.ne[2], x.shape[-1])
        for expert in np.unique(ids):
            tokens, slots = np.nonzero(ids == expert)
            rows = x[tokens, slots % x.shape[1]].astype(np.float64)
            sums.sum2[expert], sums.sum[expert] = np.square(rows).sum(axis=0), rows.sum(axis=0)
            sums.counts[expert] = len(rows)
        return sums

    def _floats(self, pointer: Any) -> NDArray[np.float32]:
        """float32 [ne3, ne2, ne1, ne0]"""
        return self._read(pointer, np.float32, _F32)

    def _read(self, pointer: Any, dtype: Any, ggml_type: int) -> NDArray[Any]:
        """[ne3, ne2, ne1, ne0]; the tensor may be a view with gaps."""
        tensor = pointer.contents
        if tensor.type != ggml_type:
            raise binding.BindingError(f"llama.cpp multiplies with numbers of ggml's type {tensor.type}")
        data = np.empty(self._lib.ggml_nbytes(pointer), np.uint8)
        self._lib.ggml_backend_tensor_get(pointer, data.ctypes.data, 0, data.size)
        shape, strides = tuple(reversed(tensor.ne[:4])), tuple(reversed(tensor.nb[:4]))
        return np.lib.stride_tricks.as_strided(data.view(dtype), shape, strides)


@cache
def _library() -> ctypes.CDLL:
    lib = binding.library()
    binding.declare(lib, _SIGNATURES)
    check_tensors(lib)
    return lib


def check_tensors(lib: ctypes.CDLL) -> None:
    """Raises ``BindingError`` where the fields of a product that ggml makes are not where they should be."""
    context = lib.ggml_init(_InitParams(1 << 20, None, no_alloc=True))
    try:
        weights = lib.ggml_new_tensor_3d(context, _F32, 5, 3, 2)
        rows = lib.ggml_new_tensor_3d(context, _F32, 5, 4, 7)
        rows_of_two = lib.ggml_new_tensor_3d(context, _F32, 5, 4, 2)
        ids = lib.ggml_new_tensor_3d(context, _I32, 4, 7, 1)
        lib.ggml_set_name(weights, b"blk.0.name")
        for product, shape, sources in (
            (lib.ggml_mul_mat_id(context, weights, rows, ids), [3, 4, 7, 1], [weights, rows, ids]),
            (lib.ggml_mul_mat(context, weights, rows_of_two), [3, 4, 2, 1], [weights, rows_of_two]),
        ):
            node = product.contents
            found = (
                lib.ggml_op_name(node.op) in _PRODUCTS,
                node.type,
                list(node.ne),
                list(node.nb),
                [_address(node.src[i]) for i in range(len(sources))],
                weights.contents.name,
            )
            strides = [4 * int(np.prod(shape[:i])) for i in range(4)]
            expected = (True, _F32, shape, strides, [*map(_address, sources)], b"blk.0.name")
            if found != expected:
                raise binding.BindingError(f"xllamacpp holds a ggml with other tensors: {found} instead of {expected}")
    finally:
        lib.ggml_free(context)


def _address(pointer: Any) -> int | None:
    return ctypes.cast(pointer, c_void_p).value
