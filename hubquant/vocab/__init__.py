"""Tokenizers: from a model's folder to GGUF metadata, and from GGUF metadata to a transformers tokenizer."""

from hubquant.vocab.differences import known_differences
from hubquant.vocab.files import ModelFacts
from hubquant.vocab.read import has_own_file, read_vocabulary
from hubquant.vocab.rebuild import build_tokenizer
from hubquant.vocab.vocabulary import Vocabulary, with_pre_tokenizer

__all__ = [
    "ModelFacts",
    "Vocabulary",
    "build_tokenizer",
    "has_own_file",
    "known_differences",
    "read_vocabulary",
    "with_pre_tokenizer",
]
