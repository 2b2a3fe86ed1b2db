"""Checkpoints become streams of GGUF tensors, and GGUF files become transformers models again."""
