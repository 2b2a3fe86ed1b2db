"""Tokenizers: from a model's folder to GGUF metadata, and from GGUF metadata to a transformers tokenizer."""

from hubquant.convert.vocab.differences import known_differences
from hubquant.convert.vocab.files import ModelFacts
from hubquant.convert.vocab.read import read_vocabulary
from hubquant.convert.vocab.vocabulary import Vocabulary

__all__ = ["ModelFacts", "Vocabulary", "known_differences", "read_vocabulary"]
