"""The weight that llama.cpp's quantizers give to each squared error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hubquant.quants import TYPES

LEGACY = {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}
UNWEIGHTED = {"Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"}  # llama.cpp takes no importance

# llama.cpp's x² (IQ2_S: mean square / 2 + x²) sacrifices all but the largest weights: weighted as with importance
EVEN = {"IQ2_S", "IQ3_XXS", "IQ3_S", "Q3_K"}


def error_weights(x: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """float64 [rows, n] for ``x`` [rows, n]; plain 1 (or the importance) where llama.cpp has no weights at all."""
    wide = x.astype(np.float64)
    if importance is None:
        return _without_importance(wide, type)
    if type in UNWEIGHTED | {"Q6_K"}:
        return np.broadcast_to(importance.astype(np.float64), x.shape)
    size = x.shape[1] if type in LEGACY else TYPES[type].block_size
    factor = 1 if type in LEGACY | {"Q2_K", "IQ2_XXS", "IQ2_XS"} else 2
    return importance * np.sqrt(factor * _mean_squares(wide, size) + wide * wide)


def _without_importance(x: NDArray[np.float64], type: str) -> NDArray[np.float64]:
    if type in LEGACY | UNWEIGHTED | {"Q6_K"}:  # llama.cpp weighs Q6_K by x², which neglects the small weights
        return np.ones_like(x)
    if type == "Q2_K":
        return np.abs(x)
    if type in {"Q4_K", "Q5_K"}:
        return np.sqrt(_mean_squares(x, 32)) + np.abs(x)
    if type in {"IQ4_NL", "IQ4_XS"}:  # llama.cpp: x² alone, but searches with a smaller error in it diverge more
        return _mean_squares(x, TYPES[type].block_size) + x * x
    if type in EVEN:
        return np.sqrt(2 * _mean_squares(x, 256) + x * x)
    return x * x


def _mean_squares(x: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The mean square of each ``size`` neighbours, [rows, n]."""
    return (x * x).reshape(x.shape[0], -1, size).mean(axis=2).repeat(size, axis=1)
