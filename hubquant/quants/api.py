"""Quantize and dequantize matrices: the two functions the other rooms call."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hubquant.quants.cpu.rows import dequantize_rows, quantize_rows
from hubquant.quants.formats import TypeFormat, lookup
from hubquant.quants.layout import members
from hubquant.quants.tensor import quantize_tensor
from hubquant.quants.traits import TRAITS, TypeTraits

Mode = Literal["exact", "best"]

_CHUNK = 1 << 20  # weights dequantized at a time: bounds the temporaries


def implemented(type: str) -> bool:
    """Whether :func:`quantize` can write tensors of this type."""
    return type in TRAITS and TRAITS[type].implemented


def needs_importance(type: str) -> bool:
    """Whether :func:`quantize` refuses this type without importance; ValueError for a type it cannot write."""
    return written(type).needs_importance


def written(type: str) -> TypeTraits:
    traits = TRAITS[lookup(type).name]
    if not traits.implemented:
        raise ValueError(f"{type} cannot be written")
    return traits


def dequantize(data: Tensor, type: str, n: int) -> Tensor:
    """uint8 ``data`` [rows, row_bytes] of ``type`` -> float32 [rows, n], with ggml's values bit for bit.

    On the CPU in as many threads as torch has.

    ValueError for an unknown type, a row length the type cannot have, or bytes of another shape.
    """
    fmt = lookup(type)
    row_bytes = fmt.row_bytes(n)
    if data.dtype != torch.uint8 or data.dim() != 2 or data.shape[1] != row_bytes:
        raise ValueError(
            f"{type} rows of {n} weights are uint8 [rows, {row_bytes}], not {data.dtype} {list(data.shape)}"
        )
    traits = TRAITS[fmt.name]
    if traits.decoder is not None and (traits.values is None or data.device.type == "cpu"):
        return dequantize_rows(data.cpu(), fmt, traits.decoder, n, torch.get_num_threads()).to(data.device)
    assert traits.values is not None
    rows = data.shape[0]
    out = torch.empty(rows, n, dtype=torch.float32, device=data.device)
    step = max(1, _CHUNK // n)
    for start in range(0, rows, step):
        blocks = data[start : start + step].reshape(-1, fmt.block_bytes)
        out[start : start + step] = traits.values(members(blocks, fmt)).view(-1, n)
    return out


def quantize(
    x: Tensor, type: str, importance: Tensor | None = None, mode: Mode = "best", threads: int | None = None
) -> Tensor:
    """float ``x`` [rows, n] -> uint8 [rows, row_bytes] in the layout of ``type``.

    ``importance`` [n] weighs the squared error of each column (mean squared activation); None lets the type choose.
    ``mode="exact"`` gives the bytes of llama.cpp's ``ggml_quantize_chunk``; "best" the same layout with a smaller
    error, searched on the device of ``x`` and returned there. ``threads``, of the CPU, defaults to torch's.

    ValueError: a shape or dtype that does not fit, a type without quantizer, an unknown mode, NaN or infinity in ``x``
    (the row is named), importance that is negative, not finite, or missing where the type needs it.
    """
    traits = written(type)
    fmt = lookup(type)
    check_matrix(x, fmt, importance)
    if traits.dtype is not None:
        return _plain(x, traits.dtype)
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}: known modes are {', '.join(get_args(Mode))}")
    kernels = traits.exact if mode == "exact" else traits.best
    assert kernels is not None
    if importance is None and kernels.plain is None:
        raise ValueError(f"{type} needs importance: without it the result would be of no use")
    if mode == "best" and x.device.type != "cpu" and traits.search is not None:
        return quantize_tensor(x, fmt, traits.search, importance)
    return quantize_rows(x, fmt, kernels, importance, threads or torch.get_num_threads()).to(x.device)


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.numel() and not torch.stack(x.aminmax()).isfinite().all():  # many times faster than a mask
        finite = torch.isfinite(x).all(dim=1)
        raise ValueError(f"row {int((~finite).nonzero()[0])} holds NaN or infinity")
    return x.to(dtype).contiguous().view(torch.uint8)


def check_matrix(x: Tensor, fmt: TypeFormat, importance: Tensor | None) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ValueError(f"weights must be a float matrix [rows, n], not {x.dtype} {list(x.shape)}")
    fmt.row_bytes(x.shape[1])
    if importance is None:
        return
    if importance.dim() != 1 or importance.shape[0] != x.shape[1]:
        raise ValueError(
            f"importance must have one value for each of {x.shape[1]} columns, not {list(importance.shape)}"
        )
    if not torch.isfinite(importance).all() or (importance < 0).any():
        raise ValueError("importance holds negative or non-finite values")
