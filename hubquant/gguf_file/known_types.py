"""The types of keys that llama.cpp reads, and with another type of which it loads no file."""

from __future__ import annotations

import re

from hubquant.errors import UserError
from hubquant.gguf_file.editing import type_of
from hubquant.gguf_file.metadata import KV

_KNOWN = {
    "general.architecture": "string",
    "general.file_type": "uint32",
    "general.quantization_version": "uint32",
    "tokenizer.ggml.model": "string",
    "tokenizer.ggml.pre": "string",
    "tokenizer.ggml.tokens": "[string]",
    "tokenizer.ggml.merges": "[string]",
    "tokenizer.ggml.scores": "[float32]",
    "tokenizer.ggml.token_type": "[int32]",
    "tokenizer.chat_template": "string",
}
_OF_TOKENS = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
_PATTERNS = (
    (re.compile(r"tokenizer\.ggml\.\w+_token_id"), "uint32"),
    (re.compile(r"tokenizer\.ggml\.add_\w+"), "bool"),
    (re.compile(r"[\w-]+\.(context_length|embedding_length|block_count|expert_count|expert_used_count)"), "uint32"),
    (re.compile(r"[\w-]+\.(rope\.freq_base|attention\.layer_norm_(rms_)?epsilon)"), "float32"),
)


def check_loads(key: str, kv: KV, n_tokens: int | None) -> None:
    """Raises ``UserError`` for a value with which llama.cpp would not load a file of ``n_tokens`` tokens, which is None
    where it has no vocabulary."""
    wanted = _KNOWN.get(key) or next((type for pattern, type in _PATTERNS if pattern.fullmatch(key)), None)
    if wanted is not None and type_of(kv) != wanted:
        raise UserError(
            f"{key} cannot be {type_of(kv)}", why=f"llama.cpp reads {wanted}", hint=f"write --type '{wanted}'"
        )
    if key in _OF_TOKENS and n_tokens is not None and isinstance(kv.value, tuple) and len(kv.value) != n_tokens:
        raise UserError(
            f"{key} has {len(kv.value)} values, and the file {n_tokens} tokens",
            why="llama.cpp loads no file where it has not one for each",
            hint="write one for each token",
        )
