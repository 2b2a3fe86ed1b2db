"""hubquant: one line takes a Hugging Face model to a published, measured GGUF repository."""

__version__ = "0.1.0"
