"""From stored bytes to numbers: torch operations on the specs of :mod:`formats`, the same for CPU and GPU tensors.

Every formula keeps the order of operations of ggml's ``dequantize_row_*`` (ggml-quants.c), so values agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hubquant.quants.formats import Bits, Field, TypeFormat

CODES = ("qs", "qh", "ql", "hmask")  # the members that hold codes

_DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "u8": torch.uint8,
    "i8": torch.int8,
    "u16": torch.int16,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
}


def unpack_bits(data: Tensor, plane: Bits) -> Tensor:
    """uint8 [blocks, bytes] -> the plane's codes, uint8 [blocks, codes], not yet shifted to their place."""
    per_byte, mask = 8 // plane.bits, (1 << plane.bits) - 1
    grouped = data.reshape(data.shape[0], -1, plane.stride)
    codes = torch.empty(*grouped.shape[:2], per_byte, plane.stride, dtype=torch.uint8, device=data.device)
    for k in range(per_byte):  # many times faster than all shifts at once
        torch.bitwise_and(grouped >> plane.bits * k, mask, out=codes[:, :, k])
    return codes.view(data.shape[0], -1)


def members(blocks: Tensor, fmt: TypeFormat) -> dict[str, Tensor]:
    """The members of uint8 ``blocks`` [blocks, block_bytes]: numbers [blocks, count] in their own type, bit planes as
    uint8 codes [blocks, block_size].
    """
    parts: dict[str, Tensor] = {}
    start = 0
    for field in fmt.fields:
        end = start + field.nbytes(fmt.block_size)
        data = blocks[:, start:end]
        parts[field.name] = _numbers(data, field) if isinstance(field, Field) else unpack_bits(data, field)
        start = end
    return parts


def with_codes(blocks: Tensor, fmt: TypeFormat, codes: Sequence[int], count: int) -> dict[str, Tensor]:
    """As :func:`members` if all bytes of codes were one of ``codes``, of each of which ``count`` alternate in a block:
    [blocks, count · len(codes)], every one for ``block_size / count`` neighbours.
    """
    parts: dict[str, Tensor] = {}
    start = 0
    for field in fmt.fields:
        end = start + field.nbytes(fmt.block_size)
        if field.name in CODES:
            mask = (1 << field.bits) - 1 if isinstance(field, Bits) else 255
            row = torch.tensor([code & mask for code in codes] * count, dtype=torch.uint8, device=blocks.device)
            each = row.expand(blocks.shape[0], -1)
            parts[field.name] = _numbers(each, field) if isinstance(field, Field) else each
        else:
            assert isinstance(field, Field)
            parts[field.name] = _numbers(blocks[:, start:end], field)
        start = end
    return parts


def _numbers(data: Tensor, field: Field) -> Tensor:
    return data.contiguous().view(_DTYPES[field.kind])


# ---- the values of each type: members of its blocks -> float32 [blocks, block_size] ---------------------------------


def _scaled(values: Tensor, scale: Tensor) -> Tensor:
    """``values`` [blocks, n] times ``scale`` [blocks, n_scales], each scale covering ``n / n_scales`` neighbours."""
    grouped = values.view(values.shape[0], scale.shape[1], -1)
    return (grouped * scale.unsqueeze(2)).view(values.shape[0], -1)


def _affine(codes: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    grouped = codes.view(codes.shape[0], scale.shape[1], -1)
    return (grouped * scale.unsqueeze(2) - minimum.unsqueeze(2)).view(codes.shape[0], -1)


def plain(p: dict[str, Tensor]) -> Tensor:
    """The stored numbers themselves, in single precision."""
    return p["values"].float()


def q4_0(p: dict[str, Tensor]) -> Tensor:
    """d · (code − 8)"""
    return _scaled((p["qs"].to(torch.int8) - 8).float(), p["d"].float())


def q4_1(p: dict[str, Tensor]) -> Tensor:
    """d · code + m"""
    return p["qs"].float() * p["d"].float() + p["m"].float()


def q5_0(p: dict[str, Tensor]) -> Tensor:
    """d · (code − 16)"""
    return _scaled(((p["qs"] | p["qh"] << 4).to(torch.int8) - 16).float(), p["d"].float())


def q5_1(p: dict[str, Tensor]) -> Tensor:
    """d · code + m"""
    return (p["qs"] | p["qh"] << 4).float() * p["d"].float() + p["m"].float()


def q8(p: dict[str, Tensor]) -> Tensor:
    """d · code"""
    return p["qs"].float() * p["d"].float()


def q2_k(p: dict[str, Tensor]) -> Tensor:
    """d · scale · code − dmin · minimum; a byte for each 16 weights holds both, the scale in its low four bits."""
    scale, minimum = p["scales"] & 15, p["scales"] >> 4
    return _affine(p["qs"].float(), p["d"].float() * scale, p["dmin"].float() * minimum)


def six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 8 scales and 8 minima of Q4_K and Q5_K: uint8 [blocks, 12] -> two uint8 [blocks, 8].

    Bytes 0–3 and 4–7 hold the first four scales and minima in their low 6 bits, and above them the top 2 bits of the
    last four; bytes 8–11 hold the low 4 bits of the last four, scales low and minima high.
    """
    low_scales, low_minima, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat([low_scales & 63, (rest & 15) | (low_scales >> 6) << 4], dim=1)
    minima = torch.cat([low_minima & 63, (rest >> 4) | (low_minima >> 6) << 4], dim=1)
    return scales, minima


def q4_k(p: dict[str, Tensor]) -> Tensor:
    """d · scale · code − dmin · minimum, scale and minimum for each 32 weights."""
    scales, minima = six_bit_scales(p["scales"])
    return _affine(p["qs"].float(), p["d"].float() * scales, p["dmin"].float() * minima)


def q5_k(p: dict[str, Tensor]) -> Tensor:
    """As :func:`q4_k`, the fifth bits of codes apart."""
    return q4_k({**p, "qs": p["qs"] | p["qh"] << 4})


def signed_six_bit_scales(packed: Tensor) -> Tensor:
    """The 16 scales of Q3_K: uint8 [blocks, 12] -> int8 [blocks, 16] in −32…31.

    Bytes 0–7 hold the low 4 bits of scales 0–7 (low nibble) and 8–15 (high nibble); byte 8 + j holds the top 2 bits of
    scales j, j + 4, j + 8, j + 12.
    """
    low, high = packed[:, :8], packed[:, 8:]
    nibbles = torch.cat([low & 15, low >> 4], dim=1)
    tops = torch.cat([(high >> shift) & 3 for shift in (0, 2, 4, 6)], dim=1)
    return (nibbles | tops << 4).to(torch.int8) - 32


def q3_k(p: dict[str, Tensor]) -> Tensor:
    """d · scale · (code − 4), the scale for each 16 weights; the third bits of codes are apart."""
    codes = (p["qs"] | p["hmask"] << 2).to(torch.int8) - 4
    return _scaled(codes.float(), p["d"].float() * signed_six_bit_scales(p["scales"]))


def q3_k_hifi(p: dict[str, Tensor]) -> Tensor:
    """Zero marks an unused place. What Q3_K holds at an outlier is 0, so readers that add them agree."""
    values, rows = q3_k(p), torch.arange(p["index"].shape[0], device=p["index"].device)
    for index, outlier in zip(p["index"].long().unbind(1), p["outlier"].float().unbind(1), strict=True):
        values[rows, index] = torch.where(outlier != 0, outlier, values[rows, index])
    return values


def q6_k(p: dict[str, Tensor]) -> Tensor:
    """d · scale · (code − 32), the scale for each 16 weights."""
    codes = (p["ql"] | p["qh"] << 4).to(torch.int8) - 32
    return _scaled(codes.float(), p["d"].float() * p["scales"])


def q1_0(p: dict[str, Tensor]) -> Tensor:
    """±d"""
    d = p["d"].float()
    return torch.where(p["qs"] == 1, d, -d)


def q2_0(p: dict[str, Tensor]) -> Tensor:
    """d · (code − 1)"""
    return (p["qs"].to(torch.int8) - 1).float() * p["d"].float()
