"""Rules from a config's settings to GGUF metadata and back, shared by architectures."""
