"""Overlapping windows of tokens, for llama-perplexity's strided perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hubquant.calibration.chunks import Chunks, fingerprint_of_ids
from hubquant.calibration.tokens import tokenize
from hubquant.errors import CalibrationError
from hubquant.recipe.schema import TextSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_windows(source: TextSource, tokenizer: PreTrainedTokenizerBase, size: int, stride: int, n: int) -> Chunks:
    """At most ``n`` windows of ``size`` tokens, each beginning ``stride`` tokens after the one before; BOS stands where
    the tokenizer puts it before the text, and in no other window. Raises ``CalibrationError`` for too little text."""
    part = tokenize(source, tokenizer, size + n * stride, seed=0)
    # (tokens - size) / stride, rounded up: one token at least is left over.
    found = min(n, -(-(len(part.ids) - size) // stride))
    if found < 1:
        raise CalibrationError(
            f"{source.display_name} is too short",
            why=f"it holds {len(part.ids):,} tokens, and a window and one more are {size + 1:,}",
            hint="use more text, or a smaller chunk_size",
        )
    ids = torch.tensor(part.ids, dtype=torch.int64).unfold(0, size, stride)[:found].contiguous()
    return Chunks(ids, (source.display_name,), (found,), fingerprint_of_ids(ids))
