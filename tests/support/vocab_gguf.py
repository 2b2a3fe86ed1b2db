"""The smallest model that llama.cpp loads, around any vocabulary, to ask llama.cpp for token ids."""

from __future__ import annotations

from pathlib import Path

from hubquant.convert.vocab import Vocabulary
from hubquant.evaluate.vocabulary import write_vocabulary


def write_vocab_gguf(path: Path, vocabulary: Vocabulary) -> Path:
    return write_vocabulary(path, vocabulary.metadata())
