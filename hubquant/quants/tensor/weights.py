"""The weight of each squared error: llama.cpp's of each type, where it has one, else the importance or 1."""

from __future__ import annotations

import torch
from torch import Tensor

from hubquant.quants.tensor.arithmetic import square_root, total

_ROW_MEAN = {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}
_IMPORTANCE_ALONE = {"Q8_0", "Q6_K", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4", "NVFP4"}
_SINGLE_MEAN = {"Q2_K", "IQ2_XXS", "IQ2_XS"}


def row_power(x: Tensor, type: str) -> Tensor | None:
    """The mean square of each row [rows] of ``x`` [rows, n], for types that weigh by it."""
    return total(x * x) / x.shape[1] if type in _ROW_MEAN else None


def error_weights(x: Tensor, type: str, importance: Tensor | None, power: Tensor | None) -> Tensor:
    """float32 [blocks, n] for ``x`` and ``importance`` [blocks, n], ``power`` [blocks].

    importance · √(k · mean x² + x²), the mean over the row in the legacy types, else over the block.
    """
    if importance is None:
        return _plain(x, type)
    if type in _IMPORTANCE_ALONE:
        w = importance
    else:
        mean = power if power is not None else (1 if type in _SINGLE_MEAN else 2) * total(x * x) / x.shape[1]
        w = importance * square_root(mean.unsqueeze(-1) + x * x)
    return torch.where((w > 0).any(-1, keepdim=True), w, 1)


def _plain(x: Tensor, type: str) -> Tensor:
    if type in _ROW_MEAN or (type in _IMPORTANCE_ALONE and type != "Q6_K"):
        return torch.ones_like(x)
    if type == "Q2_K":
        return x.abs()
    if type in {"Q4_K", "Q5_K"}:
        groups = x.view(x.shape[0], -1, 32)
        return (square_root(total(groups * groups) / 32).unsqueeze(-1) + groups.abs()).view_as(x)
    mean = (total(x * x) / x.shape[1]).unsqueeze(-1)
    if type in {"IQ4_NL", "IQ4_XS"}:
        return mean + x * x
    if type in {"Q3_K", "IQ2_S", "IQ3_XXS", "IQ3_S"}:
        return square_root(2 * mean + x * x)
    return x * x
