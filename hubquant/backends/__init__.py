"""Formats to quantize to, one folder each."""
