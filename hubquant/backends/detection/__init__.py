"""Whether a model is quantized already, from metadata alone."""
