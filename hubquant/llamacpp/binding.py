"""llama.cpp's C API as the xllamacpp wheel exports it, driven through ctypes: the wheel's own API gives no logits.

Struct layouts are those of llama.cpp b11549; ``library`` refuses a wheel in which known default values are no longer
where they should be. A file that is not sound may take the process down: :mod:`hubquant.llamacpp.runner` keeps it in
one of its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_WARM = 32  # tokens before a pass is timed

# Structs passed by value: room after the known fields keeps a newer, longer struct from overwriting our stack.
_ROOM = ("_room", ctypes.c_uint64 * 16)


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class ModelParams(Structure):
    _fields_ = [
        *_fields(c_void_p, "devices tensor_buft_overrides"),
        *_fields(c_int32, "n_gpu_layers split_mode load_mode lazy_mode main_gpu"),
        *_fields(c_void_p, "tensor_split progress_callback progress_callback_data kv_overrides"),
        *_fields(c_bool, "vocab_only check_tensors use_extra_bufts no_host no_alloc load_mtp"),
        _ROOM,
    ]


class ContextParams(Structure):
    _fields_ = [
        *_fields(c_uint32, "n_ctx n_batch n_ubatch n_seq_max n_rs_seq n_outputs_max n_outputs_max_per_seq"),
        *_fields(
            c_int32, "n_threads n_threads_batch ctx_type rope_scaling_type pooling_type attention_type flash_attn_type"
        ),
        *_fields(
            c_float, "rope_freq_base rope_freq_scale yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow"
        ),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        *_fields(c_void_p, "cb_eval cb_eval_data"),
        *_fields(c_int32, "type_k type_v"),
        *_fields(c_void_p, "abort_callback abort_callback_data _unnamed"),
        *_fields(c_bool, "embeddings offload_kqv no_perf op_offload swa_full kv_unified"),
        _ROOM,
    ]


class Batch(Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

_SIGNATURES: dict[str, tuple[Any, ...]] = {  # name: (result, *arguments)
    "llama_backend_init": (None,),
    "llama_batch_free": (None, Batch),
    "llama_batch_init": (Batch, c_int32, c_int32, c_int32),
    "llama_context_default_params": (ContextParams,),
    "llama_decode": (c_int32, c_void_p, Batch),
    "llama_free": (None, c_void_p),
    "llama_get_logits_ith": (POINTER(c_float), c_void_p, c_int32),
    "llama_get_memory": (c_void_p, c_void_p),
    "llama_init_from_model": (c_void_p, c_void_p, ContextParams),
    "llama_log_set": (None, c_void_p, c_void_p),
    "llama_memory_clear": (None, c_void_p, c_bool),
    "llama_model_default_params": (ModelParams,),
    "llama_model_free": (None, c_void_p),
    "llama_model_get_vocab": (c_void_p, c_void_p),
    "llama_model_load_from_file": (c_void_p, c_char_p, ModelParams),
    "llama_synchronize": (None, c_void_p),
    "llama_vocab_n_tokens": (c_int32, c_void_p),
}


class BindingError(Exception):
    """Why this llama.cpp cannot be called."""


@cache
def library() -> ctypes.CDLL:
    """The wheel's extension as a plain shared library, with its log on stderr.

    Raises ``BindingError`` where there is none, or one whose structs are not those described here.
    """
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise BindingError("xllamacpp is not installed")
    extensions = [path for path in Path(spec.origin).parent.glob("xllamacpp*") if path.suffix in (".so", ".pyd")]
    if not extensions:
        raise BindingError("xllamacpp holds no library")
    lib = ctypes.CDLL(str(extensions[0]))
    declare(lib, _SIGNATURES)
    _check_layout(lib)
    lib.llama_backend_init()
    return lib


def declare(lib: ctypes.CDLL, signatures: dict[str, tuple[Any, ...]]) -> None:
    """Give the functions of ``lib`` their types. Raises ``BindingError`` for one that it has not."""
    for name, (result, *arguments) in signatures.items():
        try:
            function = getattr(lib, name)
        except AttributeError:
            raise BindingError(f"xllamacpp holds a llama.cpp without {name}") from None
        function.restype, function.argtypes = result, arguments


def _check_layout(lib: ctypes.CDLL) -> None:
    model, context = lib.llama_model_default_params(), lib.llama_context_default_params()
    found = {
        "model": (model.split_mode, model.vocab_only, model.use_extra_bufts),
        "context": (context.n_batch, context.n_ubatch, context.flash_attn_type, context.yarn_ext_factor),
        "cache": (context.type_k, context.type_v, context.embeddings, context.offload_kqv),
    }
    expected = {"model": (1, False, True), "context": (2048, 512, -1, -1.0), "cache": (1, 1, False, True)}
    if found != expected:
        raise BindingError(f"xllamacpp holds a llama.cpp with other structs: {found} instead of {expected}")


class LoadedFile:
    """A GGUF file in llama.cpp on the CPU, run as its own programs run it: repacked weights, flash attention where it
    helps, a half-precision KV cache. ``n_ctx`` is the longest sequence in tokens.

    Raises ``BindingError`` where llama.cpp cannot load the file.
    """

    def __init__(self, path: str | os.PathLike[str], n_ctx: int, n_threads: int) -> None:
        self._lib = library()
        self._context = None
        self.n_ctx, self.n_threads = n_ctx, n_threads
        self._model = self._lib.llama_model_load_from_file(os.fsencode(path), self._model_params())
        if not self._model:
            raise BindingError(f"llama.cpp cannot load {os.fspath(path)}")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self._context = self._lib.llama_init_from_model(self._model, self._context_params())
        if not self._context:
            self.close()
            raise BindingError(f"llama.cpp cannot make a context of {n_ctx} tokens for {os.fspath(path)}")

    def _model_params(self) -> ModelParams:
        params: ModelParams = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        return params

    def _context_params(self) -> ContextParams:
        params: ContextParams = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = self.n_ctx
        params.n_outputs_max = 0
        params.n_outputs_max_per_seq = self.n_ctx
        params.n_threads = params.n_threads_batch = self.n_threads
        return params

    def close(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
        if self._model:
            self._lib.llama_model_free(self._model)
        self._context = self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def logits(self, ids: Sequence[int]) -> F32:
        """float32 [len(ids), n_vocab], from an empty cache."""
        return self._rows(ids, self._lib.llama_get_logits_ith, self.n_vocab)

    def seconds(self, ids: Sequence[int], n_batch: int, n_ubatch: int) -> float:
        """Of a pass over ``ids``, ``n_batch`` tokens at a time, for the logits of the last one of each; in a context of
        its own, which a few tokens have warmed up. Raises ``BindingError`` where there is no room for it."""
        params = self._context_params()
        params.n_ctx = params.n_outputs_max_per_seq = len(ids)
        params.n_batch, params.n_ubatch = n_batch, n_ubatch
        context = self._lib.llama_init_from_model(self._model, params)
        if not context:
            raise BindingError(f"llama.cpp cannot make a context with n_batch {n_batch} and n_ubatch {n_ubatch}")
        try:
            self._pass(context, ids[: min(n_batch, _WARM)], n_batch)
            begin = time.perf_counter()
            self._pass(context, ids, n_batch)
            return time.perf_counter() - begin
        finally:
            self._lib.llama_free(context)

    def _pass(self, context: Any, ids: Sequence[int], n_batch: int) -> None:
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        for first in range(0, len(ids), n_batch):
            with self._batch(ids[first : first + n_batch], first, all_logits=False) as batch:
                if status := lib.llama_decode(context, batch):
                    raise BindingError(f"llama_decode returned {status}")
            lib.llama_synchronize(context)

    @contextmanager
    def _batch(self, ids: Sequence[int], first: int, *, all_logits: bool) -> Iterator[Batch]:
        """``ids`` at the positions from ``first`` on."""
        batch: Batch = self._lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i] = int(token), first + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                batch.logits[i] = all_logits or i == len(ids) - 1
            yield batch
        finally:
            self._lib.llama_batch_free(batch)

    def _rows(self, ids: Sequence[int], row_of: Any, width: int) -> F32:
        if not 0 < len(ids) <= self.n_ctx:
            raise ValueError(f"{len(ids)} tokens do not fit a context of {self.n_ctx}")
        lib = self._lib
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        with self._batch(ids, 0, all_logits=True) as batch:
            if status := lib.llama_decode(self._context, batch):
                raise BindingError(f"llama_decode returned {status}")
            rows = [row_of(self._context, i) for i in range(len(ids))]
            return np.stack([np.ctypeslib.as_array(row, (width,)) for row in rows])
