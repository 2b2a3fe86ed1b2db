"""Where the inputs of a weight are seen in a transformers model."""
