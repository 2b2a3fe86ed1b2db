"""The smallest llama model that llama.cpp loads, around any vocabulary, to ask llama.cpp for token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hubquant.convert.vocab import Vocabulary
from hubquant.gguf_file import GGUFWriter, Metadata, TensorEntry, plan_layout
from hubquant.gguf_file.metadata import f32, string, u32

WIDTH = 32


def write_vocab_gguf(path: Path, vocabulary: Vocabulary) -> Path:
    n_vocab = len(vocabulary.tokens)
    metadata: Metadata = {
        "general.architecture": string("llama"),
        "llama.block_count": u32(1),
        "llama.context_length": u32(64),
        "llama.embedding_length": u32(WIDTH),
        "llama.feed_forward_length": u32(WIDTH),
        "llama.attention.head_count": u32(1),
        "llama.attention.head_count_kv": u32(1),
        "llama.rope.dimension_count": u32(WIDTH),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "llama.vocab_size": u32(n_vocab),
        "general.file_type": u32(0),
        **vocabulary.metadata(),
    }
    matrices = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    entries = [
        TensorEntry("token_embd.weight", (n_vocab, WIDTH), "F32"),
        TensorEntry("output_norm.weight", (WIDTH,), "F32"),
        TensorEntry("blk.0.attn_norm.weight", (WIDTH,), "F32"),
        TensorEntry("blk.0.ffn_norm.weight", (WIDTH,), "F32"),
        *(TensorEntry(f"blk.0.{name}.weight", (WIDTH, WIDTH), "F32") for name in matrices),
    ]
    with GGUFWriter(path, plan_layout(metadata, entries)) as writer:
        for entry in entries:
            writer.write(entry.name, np.zeros(entry.shape, np.float32))
        return writer.finish()
