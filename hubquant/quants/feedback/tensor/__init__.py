"""Rounding with feedback in torch, for tensors on other devices than the CPU, as :mod:`feedback.kernels` does it there.

Weights lie as [columns, rows], so that an operation on a column reads neighbours. Nothing waits for the device: what is
chosen is chosen there.
"""
