"""What a model repository is, loading it, and tiny real models for tests."""
