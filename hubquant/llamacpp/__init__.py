"""Everything that asks llama.cpp's own runtime."""
