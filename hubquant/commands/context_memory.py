"""What llama.cpp keeps of the tokens that a model has seen."""

from __future__ import annotations

from dataclasses import dataclass

from hubquant.gguf_file.metadata import Metadata

HALF_BYTES, FLOAT_BYTES = 2, 4
UBATCH, PADDING = 512, 256  # tokens, by llama.cpp's defaults


@dataclass(frozen=True)
class ContextMemory:
    """``token_bytes`` for each token of the context, in the layers that see all of it; ``window_bytes`` for each token
    of the last ``window`` in those that see no more; ``state_bytes`` whatever the context is. ``longest`` is the most
    tokens that the model was made for."""

    token_bytes: int
    window_bytes: int
    window: int
    state_bytes: int
    longest: int | None

    def bytes(self, context: int) -> int:
        """Of the caches for one sequence of so many tokens in half precision, llama.cpp's default, at most: keys and
        values of all tokens (llama_kv_cache), of a window and one batch (llama_kv_cache_iswa), and the state of
        recurrent layers (llama_memory_recurrent), https://github.com/ggml-org/llama.cpp/tree/master/src"""
        whole = _padded(context)
        seen = min(whole, _padded(self.window + UBATCH)) if self.window else 0
        return whole * self.token_bytes + seen * self.window_bytes + self.state_bytes


def context_memory(architecture: str, metadata: Metadata) -> ContextMemory | None:
    """From a GGUF file's keys; None where these do not tell."""

    def values(key: str) -> tuple[int, ...] | None:
        kv = metadata.get(f"{architecture}.{key}")
        found = None if kv is None else kv.value if isinstance(kv.value, tuple) else (kv.value,)
        return None if found is None else tuple(int(v) for v in found if isinstance(v, int | float))

    def value(key: str, default: int = 0) -> int:
        return (values(key) or (default,))[0]

    layers = value("block_count")
    if not layers:
        return None
    longest = value("context_length") or None
    heads = value("attention.head_count")
    head = value("embedding_length") // heads if heads else 0
    kv_heads = _for_each(values("attention.head_count_kv") or values("attention.head_count") or (0,), layers)
    key, val = value("attention.key_length", head), value("attention.value_length", head)
    key_swa, val_swa = value("attention.key_length_swa", key), value("attention.value_length_swa", val)
    window = value("attention.sliding_window")
    pattern = values("attention.sliding_window_pattern")
    windowed = [bool(each) for each in pattern] if window and pattern and len(pattern) == layers else [False] * layers
    own = layers - value("attention.shared_kv_layers")
    counted = list(zip(kv_heads, windowed, strict=True))[:own]
    inner, state, conv = value("ssm.inner_size"), value("ssm.state_size"), value("ssm.conv_kernel")
    recurrent = layers - sum(1 for each in kv_heads if each) if heads else layers
    shifted = (conv - 1) * (inner + 2 * value("ssm.group_count") * state) if conv else 0
    return ContextMemory(
        token_bytes=HALF_BYTES * sum(n * (key + val) for n, is_windowed in counted if not is_windowed),
        window_bytes=HALF_BYTES * sum(n * (key_swa + val_swa) for n, is_windowed in counted if is_windowed),
        window=window if any(windowed) else 0,
        state_bytes=FLOAT_BYTES * recurrent * (inner * state + shifted) if inner else 0,
        longest=longest,
    )


def _for_each(values: tuple[int, ...], layers: int) -> tuple[int, ...]:
    return values if len(values) == layers else values[:1] * layers


def _padded(tokens: int) -> int:
    return -(-tokens // PADDING) * PADDING
