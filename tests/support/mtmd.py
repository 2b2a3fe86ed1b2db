"""llama.cpp's multimodal part as an oracle: what it makes of a picture or a sound with a projector's file."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hubquant.llamacpp import binding
from tests.support.llamacpp import F32, LlamaCpp, library

MARKER = "<__media__>"
_TEXT, _IMAGE, _AUDIO = range(3)


class _ContextParams(Structure):
    _fields_ = [
        ("use_gpu", c_bool),
        ("device", c_void_p),
        ("print_timings", c_bool),
        ("n_threads", c_int32),
        ("image_marker", c_char_p),
        ("media_marker", c_char_p),
        ("flash_attn_type", c_int32),
        ("warmup", c_bool),
        ("image_min_tokens", c_int32),
        ("image_max_tokens", c_int32),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("batch_max_tokens", c_int32),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        binding._ROOM,
    ]


class _InputText(Structure):
    _fields_ = [("text", c_char_p), ("text_len", c_size_t), ("add_special", c_bool), ("parse_special", c_bool)]


_SIGNATURES = {
    "mtmd_context_params_default": (_ContextParams,),
    "mtmd_init_from_file": (c_void_p, c_char_p, c_void_p, _ContextParams),
    "mtmd_free": (None, c_void_p),
    "mtmd_log_set": (None, c_void_p, c_void_p),
    "mtmd_bitmap_init": (c_void_p, c_uint32, c_uint32, c_void_p),
    "mtmd_bitmap_init_from_audio": (c_void_p, c_size_t, c_void_p),
    "mtmd_bitmap_free": (None, c_void_p),
    "mtmd_input_chunks_init": (c_void_p,),
    "mtmd_input_chunks_free": (None, c_void_p),
    "mtmd_input_chunks_size": (c_size_t, c_void_p),
    "mtmd_input_chunks_get": (c_void_p, c_void_p, c_size_t),
    "mtmd_input_chunk_get_type": (c_int32, c_void_p),
    "mtmd_input_chunk_get_n_tokens": (c_size_t, c_void_p),
    "mtmd_tokenize": (c_int32, c_void_p, c_void_p, POINTER(_InputText), POINTER(c_void_p), c_size_t),
    "mtmd_encode_chunk": (c_int32, c_void_p, c_void_p),
    "mtmd_get_output_embd": (POINTER(c_float), c_void_p),
}


@cache
def _library() -> ctypes.CDLL:
    lib = library()
    binding.declare(lib, _SIGNATURES)
    found = lib.mtmd_context_params_default()
    if not found.use_gpu or found.n_threads <= 0 or found.media_marker != MARKER.encode() or not found.warmup:
        raise RuntimeError("llama.cpp's structs are not those described here")
    return lib


class Multimodal(LlamaCpp):
    """A language model beside the file ``mmproj`` of its projector."""

    def __init__(self, path: str | os.PathLike[str], mmproj: str | os.PathLike[str]) -> None:
        super().__init__(path)
        lib = _library()
        params = lib.mtmd_context_params_default()
        params.use_gpu, params.warmup, params.print_timings, params.n_threads = False, False, False, 1
        params.flash_attn_type = 0
        if not os.environ.get("LLAMA_LOG"):
            lib.mtmd_log_set(ctypes.cast(_SILENT, c_void_p), None)
        self._mtmd = lib.mtmd_init_from_file(os.fsencode(mmproj), self._model, params)
        if not self._mtmd:
            raise RuntimeError(f"llama.cpp cannot load {mmproj} (LLAMA_LOG=1 prints its reason)")

    def see(self, picture: NDArray[np.uint8], width: int) -> list[F32]:
        """uint8 [height, width, 3] -> the embeddings float32 [n, ``width``] of each part that it is seen in."""
        data = np.ascontiguousarray(picture)
        return self._encoded(_library().mtmd_bitmap_init(data.shape[1], data.shape[0], data.ctypes.data), width)

    def hear(self, sound: F32, width: int) -> list[F32]:
        """float32 [n], of as many samples a second as the encoder takes -> as :meth:`see`."""
        data = np.ascontiguousarray(sound, np.float32)
        return self._encoded(_library().mtmd_bitmap_init_from_audio(data.size, data.ctypes.data), width)

    def _encoded(self, bitmap: int, width: int) -> list[F32]:
        lib, found = _library(), []
        chunks = lib.mtmd_input_chunks_init()
        text = _InputText(MARKER.encode(), len(MARKER), False, True)
        try:
            if status := lib.mtmd_tokenize(self._mtmd, chunks, text, (c_void_p * 1)(bitmap), 1):
                raise RuntimeError(f"mtmd_tokenize returned {status}")
            for i in range(lib.mtmd_input_chunks_size(chunks)):
                chunk = lib.mtmd_input_chunks_get(chunks, i)
                if lib.mtmd_input_chunk_get_type(chunk) == _TEXT:
                    continue
                if status := lib.mtmd_encode_chunk(self._mtmd, chunk):
                    raise RuntimeError(f"mtmd_encode_chunk returned {status}")
                n = lib.mtmd_input_chunk_get_n_tokens(chunk)
                found.append(np.ctypeslib.as_array(lib.mtmd_get_output_embd(self._mtmd), (n, width)).copy())
        finally:
            lib.mtmd_input_chunks_free(chunks)
            lib.mtmd_bitmap_free(bitmap)
        return found

    def close(self) -> None:
        if getattr(self, "_mtmd", None):
            _library().mtmd_free(self._mtmd)
            self._mtmd = None
        super().close()


def _silent(_level: int, _text: bytes, _data: int | None) -> None:
    pass


_SILENT = binding.LogCallback(_silent)
