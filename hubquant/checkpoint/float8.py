"""Matrices of FP8 with scales become floats again while they are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.checkpoint.headers import ScaleTensor, TensorInfo, listed
from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FLOAT8 = ("F8_E4M3", "F8_E5M2")
SCALES = ("_scale_inv", "_scale")  # of the matrix's name; both are factors
_BESIDE = ("scale_weight", "scale")  # what ComfyUI and DeepSeek V4 call the factors of a "weight"
SCALE_TYPES = ("F32", "F16", "BF16", "F8_E8M0")
# scales of activations and of the cache, and ComfyUI's marks, which only a runtime that computes in FP8 uses
_OF_RUNTIMES = re.compile(
    r"[._](input|output|activation|[qkv])(_global)?_scale$|\.(input|output)_zero_point$"
    r"|\.(scale_input|comfy_quant)$|(^|\.)scaled_fp8$"
)


def with_scales(tensors: Mapping[str, TensorInfo], block: tuple[int, int] | None) -> dict[str, TensorInfo]:
    """The same tensors, the scales no longer among them but each with its matrix.

    ``block`` is the size of one that config.json names. Raises ``CheckpointError`` for scales that do not fit their
    matrix.
    """
    found = {}
    used = {scales for name, info in tensors.items() if info.dtype in FLOAT8 for scales in _names_of_scales(name)}
    for name, info in tensors.items():
        beside = (tensors[scales] for scales in _names_of_scales(name) if scales in tensors)
        scales = next(beside, None) if info.dtype in FLOAT8 else None
        if scales is not None:
            found[name] = replace(info, scale=ScaleTensor(scales, _block_of(info, scales, block)))
        elif name not in used and not _OF_RUNTIMES.search(name):
            found[name] = info
    return found


def as_floats(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Like :func:`with_scales`; FP8 without scales stands for itself, as in files of denoisers that were only cast."""
    return {
        name: replace(info, scale=ScaleTensor(None, (1, 1))) if info.dtype in FLOAT8 and not info.scale else info
        for name, info in with_scales(tensors, None).items()
    }


def _names_of_scales(name: str) -> list[str]:
    return [*(name + suffix for suffix in SCALES), *(name.removesuffix("weight") + other for other in _BESIDE)]


def apply_scales(x: torch.Tensor, scales: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """FP8 ``x`` [.., rows, columns] times the scale of each ``block``, in float32; ``scales`` [.., rows', columns'].

    This is what transformers does when it loads such a model in float32 (``Fp8Dequantize``), and also where the last
    blocks are not whole. One row of blocks is expanded at a time.
    """
    import torch

    result = torch.empty(x.shape, dtype=torch.float32)
    rows, columns = x.shape[-2:]
    n_rows, n_columns = math.ceil(rows / block[0]), math.ceil(columns / block[1])
    grids = scales.float().reshape(-1, n_rows, n_columns)
    for matrix, out, grid in zip(x.reshape(-1, rows, columns), result.view(-1, rows, columns), grids, strict=True):
        for i in range(n_rows):
            part = slice(i * block[0], (i + 1) * block[0])
            factors = grid[i].repeat_interleave(block[1])[:columns] if n_columns > 1 else grid[i]
            torch.mul(matrix[part].float(), factors, out=out[part])
    return result


def _block_of(matrix: TensorInfo, scales: TensorInfo, block: tuple[int, int] | None) -> tuple[int, int]:
    """[rows, columns] that one scale is for."""
    wrong = CheckpointError(
        f"the scales of {listed([matrix.name])} do not fit",
        why=f"they are {scales.dtype} {list(scales.shape)} and the matrix is {list(matrix.shape)}",
        hint="compare both with those of the repository that the model comes from",
    )
    if len(matrix.shape) < 2 or 0 in matrix.shape or scales.dtype not in SCALE_TYPES:
        raise wrong
    *stack, rows, columns = matrix.shape
    n_scales, n_matrices = math.prod(scales.shape), math.prod(stack)
    if n_scales == n_matrices:
        return rows, columns
    if n_scales == n_matrices * rows and scales.shape[-1] in (1, rows):
        return 1, columns
    if scales.shape[:-2] == tuple(stack) and len(scales.shape) == len(matrix.shape):
        n_rows, n_columns = scales.shape[-2:]
        if block and (math.ceil(rows / block[0]), math.ceil(columns / block[1])) == (n_rows, n_columns):
            return block
        if n_rows and n_columns and rows % n_rows == 0 and columns % n_columns == 0:
            return rows // n_rows, columns // n_columns
    raise wrong
