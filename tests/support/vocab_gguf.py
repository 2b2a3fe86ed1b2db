"""The smallest model that llama.cpp loads, around any vocabulary, to ask llama.cpp for token ids."""

from __future__ import annotations

from pathlib import Path

from hubquant.llamacpp.vocabulary import write_vocabulary
from hubquant.vocab import Vocabulary


def write_vocab_gguf(path: Path, vocabulary: Vocabulary) -> Path:
    return write_vocabulary(path, vocabulary.metadata())
