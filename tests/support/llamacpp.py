"""llama.cpp as an oracle: the C API that the ``xllamacpp`` wheel exports, driven through ctypes.

A model is loaded on the CPU with a float32 KV cache and without flash attention, so that its logits can be compared
with transformers'. Linux x86-64 only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Sequence
from ctypes import (
    POINTER,
    c_bool,
    c_char_p,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_void_p,
)
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubquant.llamacpp import binding
from hubquant.llamacpp.inputs import WatchedFile

F32 = NDArray[np.float32]
Sums = dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]

_ERROR_LEVEL = 4


_SIGNATURES: dict[str, tuple[Any, ...]] = {  # name: (result, *arguments)
    "ggml_quantize_chunk": (c_size_t, c_int32, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p),
    "ggml_quantize_init": (None, c_int32),
    "ggml_row_size": (c_size_t, c_int32, c_int64),
    "llama_adapter_lora_init": (c_void_p, c_void_p, c_char_p),
    "llama_detokenize": (c_int32, c_void_p, POINTER(c_int32), c_int32, c_char_p, c_int32, c_bool, c_bool),
    "llama_get_embeddings_ith": (POINTER(c_float), c_void_p, c_int32),
    "llama_get_embeddings_seq": (POINTER(c_float), c_void_p, c_int32),
    "llama_model_desc": (c_int32, c_void_p, c_char_p, c_size_t),
    "llama_model_ftype": (c_int32, c_void_p),
    "llama_model_n_embd": (c_int32, c_void_p),
    "llama_model_meta_count": (c_int32, c_void_p),
    "llama_model_meta_key_by_index": (c_int32, c_void_p, c_int32, c_char_p, c_size_t),
    "llama_model_meta_val_str_by_index": (c_int32, c_void_p, c_int32, c_char_p, c_size_t),
    "llama_set_adapters_lora": (c_int32, c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)),
    "llama_tokenize": (c_int32, c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
}


@cache
def library() -> ctypes.CDLL:
    """The wheel's extension as a plain shared library; RuntimeError where its structs are not those that are known."""
    try:
        lib = binding.library()
        binding.declare(lib, _SIGNATURES)
    except binding.BindingError as error:
        raise RuntimeError(str(error)) from None
    lib.llama_log_set(ctypes.cast(_LOG, c_void_p), None)
    return lib


def _log(level: int, text: bytes, _data: int | None) -> None:
    if level >= _ERROR_LEVEL and os.environ.get("LLAMA_LOG"):
        sys.stderr.write(text.decode(errors="replace"))


_LOG = binding.LogCallback(_log)  # llama.cpp keeps a bare pointer to it


class LlamaCpp(WatchedFile):
    """A GGUF file loaded by llama.cpp; ``n_ctx`` is the longest sequence in tokens.

    An ``encoder`` gives embeddings of tokens instead of logits, or if ``pooled`` one of all by the file's pooling.
    ``flash`` attention is what some families' sparse attention needs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_ctx: int = 512,
        n_threads: int = 1,
        *,
        encoder: bool = False,
        pooled: bool = False,
        flash: bool = False,
    ) -> None:
        self.flash = flash
        self.encoder, self.pooled = encoder or pooled, pooled
        library()  # with the log that is asked for
        try:
            super().__init__(path, n_ctx, n_threads)
        except binding.BindingError as error:
            raise RuntimeError(f"{error} (LLAMA_LOG=1 prints its reason)") from None

    def _context_params(self) -> binding.ContextParams:
        params = super()._context_params()
        params.flash_attn_type = int(self.flash)
        if self.encoder:
            params.embeddings, params.pooling_type = True, -1 if self.pooled else 0  # the file's, or none
        return params

    @property
    def desc(self) -> str:
        buffer = ctypes.create_string_buffer(256)
        self._lib.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode()

    @property
    def ftype(self) -> int:
        """The numeric general.file_type."""
        return int(self._lib.llama_model_ftype(self._model))

    def meta(self) -> dict[str, str]:
        """Metadata as llama.cpp prints it, values longer than 64 KiB cut."""
        buffer = ctypes.create_string_buffer(1 << 16)

        def text(getter: Any, index: int) -> str:
            getter(self._model, index, buffer, len(buffer))
            return buffer.value.decode(errors="replace")

        key, value = self._lib.llama_model_meta_key_by_index, self._lib.llama_model_meta_val_str_by_index
        return {text(key, i): text(value, i) for i in range(self._lib.llama_model_meta_count(self._model))}

    def adapt(self, path: str | os.PathLike[str]) -> None:
        """Apply a GGUF adapter from now on."""
        adapter = self._lib.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            raise RuntimeError(f"llama.cpp cannot load {path} (LLAMA_LOG=1 prints its reason)")
        if self._lib.llama_set_adapters_lora(self._context, (c_void_p * 1)(adapter), 1, (c_float * 1)(1.0)):
            raise RuntimeError(f"llama.cpp cannot apply {path}")

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        raw = text.encode()
        ids = (c_int32 * (len(raw) + 8))()
        n = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), add_special, parse_special)
        if n < 0:
            raise RuntimeError(f"llama_tokenize returned {n}")
        return list(ids[:n])

    def detok(self, ids: Sequence[int]) -> str:
        buffer = ctypes.create_string_buffer(16 * len(ids) + 64)
        array = (c_int32 * len(ids))(*ids)
        n = self._lib.llama_detokenize(self._vocab, array, len(ids), buffer, len(buffer), False, True)
        return buffer.raw[:n].decode(errors="replace")

    def embeddings(self, ids: Sequence[int]) -> F32:
        """float32 [len(ids), n_embd] of an encoder."""
        width = int(self._lib.llama_model_n_embd(self._model))
        return self._rows(ids, self._lib.llama_get_embeddings_ith, width)

    def pooled_embedding(self, ids: Sequence[int]) -> F32:
        """float32 [n_embd] of a text."""
        width = int(self._lib.llama_model_n_embd(self._model))
        return self._rows(ids, lambda context, _: self._lib.llama_get_embeddings_seq(context, 0), width)[0]

    def score(self, ids: Sequence[int]) -> float:
        """Of a reranker."""
        return float(self._rows(ids, lambda context, _: self._lib.llama_get_embeddings_seq(context, 0), 1)[0, 0])

    def ppl(self, ids: Sequence[int]) -> float:
        """Perplexity of ids[1:] given what precedes each of them."""
        logits = self.logits(ids)[:-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = logits[np.arange(len(ids) - 1), np.asarray(ids[1:])]
        return float(np.exp((np.log(np.exp(logits).sum(axis=-1)) - chosen).mean()))

    def imatrix(self, chunks: Iterable[Sequence[int]]) -> Sums:
        """Weight name -> Σx² per input column (float64 [matrices, n_in]) and rows seen (int64 [matrices]).

        The rule of llama-imatrix, without its lower bound on rows: every matrix multiplication with a block's weight,
        the output.
        """

        def wanted(name: str) -> bool:
            return name.startswith(("blk.", "enc.blk.")) or name == "output.weight"

        with self.watching(wanted) as sums:
            for ids in chunks:
                _ = self.embeddings(ids) if self.encoder else self.logits(ids)
        return {name: (found.sum2, found.counts) for name, found in sums.items()}


def ggml_quantize(x: NDArray[Any], ggml_type: int, imatrix: NDArray[Any] | None = None) -> NDArray[np.uint8]:
    """llama.cpp's quantizer: x [..., n], imatrix [n] or None -> uint8 [rows, bytes per row]."""
    lib, kind = library(), int(ggml_type)
    x = np.ascontiguousarray(x, np.float32)
    n = x.shape[-1]
    lib.ggml_quantize_init(kind)
    out = np.empty((x.size // n, lib.ggml_row_size(kind, n)), np.uint8)
    importance = None if imatrix is None else np.ascontiguousarray(imatrix, np.float32)
    pointer = None if importance is None else importance.ctypes.data
    written = lib.ggml_quantize_chunk(kind, x.ctypes.data, out.ctypes.data, 0, len(out), n, pointer)
    if written != out.size:
        raise RuntimeError(f"ggml_quantize_chunk wrote {written} of {out.size} bytes")
    return out


def ggml_dequantize(data: NDArray[np.uint8], name: str, n: int) -> F32:
    """llama.cpp's dequantizer of the C name ("q4_K", "iq2_xxs"): n elements -> float32 [n]."""
    function = getattr(library(), f"dequantize_row_{name}")
    function.restype, function.argtypes = None, [c_void_p, c_void_p, c_int64]
    data, out = np.ascontiguousarray(data), np.empty(n, np.float32)
    function(data.ctypes.data, out.ctypes.data, n)
    return out
