"""Models in memory: quantized while they are loaded, after that, or before."""
