"""Matrices rounded to integers and packed as quantized checkpoints have them, and the floats that these stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which of eight neighbours are in a word of AWQ, the one in its lowest bits first."""
Parts = dict[str, torch.Tensor]


def rounded(
    x: torch.Tensor, bits: int, group: int, *, symmetric: bool = False, dtype: torch.dtype = torch.float16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [rows, columns] from 0 on, scales and zero points [rows, n_groups]."""
    most = (1 << bits) - 1
    groups = x.float().reshape(len(x), -1, group)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if symmetric:
        scales = (groups.abs().amax(-1) * 2 / most).to(dtype)
        zeros = torch.full(scales.shape, 1 << (bits - 1))
    else:
        scales = ((high - low) / most).to(dtype)
        zeros = (-low / scales.float()).round().clamp(0, most).long()
    codes = (groups / scales.float()[..., None]).round() + zeros[..., None]
    return codes.clamp(0, most).long().flatten(1), scales, zeros


def floats(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """``groups`` [columns] is the group of each."""
    return (codes - zeros[:, groups]).float() * scales[:, groups].float()


def in_words(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [.., columns * bits / 32], the numbers one after the other, their lowest bits first."""
    each = (numbers.numpy()[..., None] >> np.arange(bits)) & 1
    whole = np.packbits(each.reshape(*numbers.shape[:-1], -1).astype(np.uint8), axis=-1, bitorder="little")
    return torch.from_numpy(whole).view(torch.int32)


def gptq(
    x: torch.Tensor, bits: int, group: int, *, symmetric: bool = False, act_order: bool = False, less: int = 1
) -> tuple[Parts, torch.Tensor]:
    """``x`` [out, in] in GPTQ's parts, whose zero points are stored less 1 but in its second version; and its floats.

    In ``act_order`` the inputs of a group lie anywhere.
    """
    columns = x.shape[1]
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(3)) if act_order else torch.arange(columns)
    codes, scales, zeros = rounded(x[:, order], bits, group, symmetric=symmetric)
    back = order.argsort()
    groups = (torch.arange(columns) // group)[back]
    codes = codes[:, back]
    parts = {
        "qweight": in_words(codes, bits).T.contiguous(),
        "qzeros": in_words((zeros - less).T & ((1 << bits) - 1), bits),
        "scales": scales.T.contiguous(),
        "g_idx": groups.int(),
    }
    return parts, floats(codes, scales, zeros, groups)


def awq(x: torch.Tensor, group: int) -> tuple[Parts, torch.Tensor]:
    codes, scales, zeros = rounded(x, 4, group)

    def words(numbers: torch.Tensor) -> torch.Tensor:
        return in_words(numbers.reshape(len(numbers), -1, 8)[..., AWQ_ORDER].flatten(1), 4)

    parts = {"qweight": words(codes.T), "qzeros": words(zeros.T), "scales": scales.T.contiguous()}
    return parts, floats(codes, scales, zeros, torch.arange(x.shape[1]) // group)


def compressed(x: torch.Tensor, format: str, **weights: Any) -> tuple[Parts, torch.Tensor]:
    """By compressed-tensors itself, in both directions."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    library: Any = BaseCompressor.get_value_from_registry(format)
    state = {"weight": x} | _parameters(x, scheme.weights)
    parts = library.compress(dict(state), scheme)
    return parts, library.decompress(dict(parts), scheme)["weight"].float()


def _parameters(x: torch.Tensor, weights: Any) -> Parts:
    columns = x.shape[1]
    group = weights.group_size or columns
    if weights.type == "float":
        largest = x.float().reshape(len(x), -1, group).abs().amax(-1) / 6
        if group == 32:
            return {"weight_scale": torch.exp2(largest.log2().ceil()).to(x.dtype)}
        whole = 448 / largest.max()
        scales = (largest * whole).clamp(min=2**-9).to(torch.float8_e4m3fn).to(x.dtype)
        return {"weight_scale": scales, "weight_global_scale": whole.reshape(1)}
    if weights.strategy == "tensor":
        return {"weight_scale": (x.float().abs().max() / (1 << (weights.num_bits - 1))).reshape(1).to(x.dtype)}
    _, scales, zeros = rounded(x, weights.num_bits, group, symmetric=weights.symmetric, dtype=x.dtype)
    found = {"weight_scale": scales}
    if not weights.symmetric:
        found["weight_zero_point"] = (zeros - (1 << (weights.num_bits - 1))).to(torch.int8)
    return found
