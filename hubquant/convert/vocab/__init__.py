"""Tokenizers: from a model's folder to GGUF metadata, and from GGUF metadata to a transformers tokenizer."""

from hubquant.convert.vocab.differences import known_differences
from hubquant.convert.vocab.files import ModelFacts
from hubquant.convert.vocab.read import read_vocabulary
from hubquant.convert.vocab.rebuild import build_tokenizer
from hubquant.convert.vocab.vocabulary import Vocabulary, with_pre_tokenizer

__all__ = ["ModelFacts", "Vocabulary", "build_tokenizer", "known_differences", "read_vocabulary", "with_pre_tokenizer"]
