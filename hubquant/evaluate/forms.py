"""The forms in which a baseline is stored, and what they take; without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Form = Literal["compact", "full", "llama.cpp"]
LLAMA_CPP_SUFFIX = ".kld"
_ENTRY_BYTES = 5
LARGEST_COMPACT = 1 << 18
"""The largest vocabulary that has a compact form."""

_ENTRIES = 1 << 13  # of a token on average, at most, unless a model predicts next to nothing


def usual_form(n_vocab: int) -> Form:
    """The compact one, unless that may take more room, of a small vocabulary, or there is none, of a huge one."""
    if n_vocab > LARGEST_COMPACT:
        return "full"
    return "compact" if stored_bytes("compact", 1, n_vocab) < stored_bytes("full", 1, n_vocab) else "full"


def form_of(path: Path, n_vocab: int, *, full: bool = False) -> Form:
    """What a file of that name is to hold."""
    return "llama.cpp" if path.suffix == LLAMA_CPP_SUFFIX else "full" if full else usual_form(n_vocab)


def stored_bytes(form: Form, n_tokens: int, n_vocab: int) -> int:
    """What ``n_tokens`` scored tokens take at most."""
    return n_tokens * (_ENTRY_BYTES * min(n_vocab, _ENTRIES) if form == "compact" else 2 * n_vocab)
