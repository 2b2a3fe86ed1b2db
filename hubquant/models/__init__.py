"""What a model repository is, loading it, and tiny real models for tests."""

from hubquant.models.identify import Identity, identify
from hubquant.models.load import load, load_tokenizer

__all__ = ["Identity", "identify", "load", "load_tokenizer"]
