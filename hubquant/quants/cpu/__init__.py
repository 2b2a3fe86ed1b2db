"""Searches that run on the CPU: numba kernels over 16 blocks at a time."""
