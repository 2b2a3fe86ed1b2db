"""GGUF files: which type each tensor gets, metadata, layouts, writing."""
