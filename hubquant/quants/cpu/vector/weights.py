"""The weight of each squared error, as llama.cpp defines it: importance times √(mean x² + x²)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hubquant.quants.cpu.vector.compile import primitive
from hubquant.quants.cpu.vector.simd import LANES, Pointer, Vector, load, pointer, splat, sqrt

Array = np.ndarray[Any, Any]


@primitive
def sum_squares(n: int, x: Pointer) -> Vector:
    """Σ x² of ``n`` vectors, in their order."""
    total = splat(np.float32(0))
    for i in range(n):
        total = total + x[i] * x[i]
    return total


@primitive
def total(n: int, w: Pointer) -> Vector:
    """Σ w of ``n`` vectors, in their order."""
    mass = splat(np.float32(0))
    for i in range(n):
        mass = mass + w[i]
    return mass


@primitive
def importance_of(importance: Array, tile: int, i: int) -> Vector:
    """The importance of weight ``i`` of the tile's blocks; ``importance`` is float32 [tiles, size, 16] and repeats."""
    size = importance.shape[1]
    return load(pointer(importance), ((tile % importance.shape[0]) * size + i) * LANES)


@primitive
def error_weights(w: Pointer, x: Pointer, importance: Array, tile: int, mean_square: Vector) -> None:
    """``w`` = importance · √(mean_square + x²) of whole blocks."""
    for i in range(importance.shape[1]):
        w[i] = importance_of(importance, tile, i) * sqrt(mean_square + x[i] * x[i])


@primitive
def square_weights(n: int, w: Pointer, x: Pointer) -> None:
    """``w`` = x²: what takes the place of importance in some types."""
    for i in range(n):
        w[i] = x[i] * x[i]
