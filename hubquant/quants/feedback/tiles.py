"""Rows as lanes: the weights of 16 rows side by side, float32 [tiles, n, 16], which is how the kernels take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.formats import LANES

Array = np.ndarray[Any, Any]


def to_tiles(values: Array) -> Array:
    """[rows, n] -> [tiles, n, 16], zeros after the last row."""
    rows, n = values.shape
    tiles = -(-rows // LANES)
    padded = np.zeros((tiles, LANES, n), values.dtype)
    padded.reshape(-1, n)[:rows] = values
    return np.ascontiguousarray(padded.transpose(0, 2, 1))


def from_tiles(tiles: Array, rows: int) -> Array:
    """[tiles, n, 16] -> [rows, n]"""
    turned = np.ascontiguousarray(tiles.transpose(0, 2, 1))
    return turned.reshape(-1, tiles.shape[1])[:rows]
