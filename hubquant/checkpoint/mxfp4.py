"""MXFP4 as transformers stores it: 4-bit floats under a power of two that 32 of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCKS, SCALES = "_blocks", "_scales"
"""What transformers adds to a weight's name for its codes and for its exponents."""
BLOCK_SIZE = 32
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BIAS = 127  # of the exponent
_TOP = 2  # exponent of the largest magnitude


@dataclass(frozen=True)
class UnpackMXFP4:
    """Codes [experts, rows, blocks, 16] and exponents [experts, rows, blocks] become BF16 [experts, rows, 32 * blocks].

    A byte holds the codes of two neighbours, the first in its low half. BF16 holds every such number exactly. They are
    the same numbers after ``inverse`` and ``forward``, where codes and exponents may differ: blocks without large
    numbers can be written in several ways.
    """

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        codes, exponents = tensors
        values = torch.tensor([*MAGNITUDES, *(-x for x in MAGNITUDES)], dtype=torch.bfloat16)
        result = torch.empty(*codes.shape[:2], codes.shape[2] * BLOCK_SIZE, dtype=torch.bfloat16, device=codes.device)
        for whole, code, exponent in zip(result, codes, exponents, strict=True):
            pairs = torch.stack([values[(code & 15).int()], values[(code >> 4).int()]], dim=-1)
            scale = torch.ldexp(torch.ones(exponent.shape), exponent.int() - _BIAS).bfloat16()
            whole.copy_((pairs.flatten(-2) * scale[..., None]).flatten(-2))
        return [result]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        (x,) = tensors
        blocks = x.float().reshape(*x.shape[:-1], -1, BLOCK_SIZE)
        exponents = torch.frexp(blocks.abs().amax(-1)).exponent - 1 - _TOP
        exponents = exponents.clamp(-_BIAS, _BIAS)
        halves = torch.ldexp(blocks.abs(), 1 - exponents[..., None]).round().clamp(max=12).int()
        code_of = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 7, 7], dtype=torch.uint8, device=x.device)
        codes = code_of[halves] + 8 * (blocks < 0).to(torch.uint8)
        low, high = codes[..., ::2], codes[..., 1::2]
        return [low | high << 4, (exponents + _BIAS).to(torch.uint8)]


@dataclass(frozen=True)
class RepackMXFP4:
    """Codes [experts, rows, blocks, 16] and exponents [experts, rows, blocks] become [experts, rows, 17 * blocks].

    GGUF's block is the exponent and 16 bytes, each with the codes of two numbers that are 16 apart, the first in its
    low half. Nothing is rounded: codes and exponents are those of the checkpoint.
    """

    def forward(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        codes, exponents = tensors
        in_order = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
        return [torch.cat([exponents[..., None], in_order[..., :16] | in_order[..., 16:] << 4], dim=-1).flatten(-2)]

    def inverse(self, tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        import torch

        (blocks,) = tensors
        exponents, pairs = blocks.reshape(*blocks.shape[:-1], -1, 17).split_with_sizes([1, 16], dim=-1)
        in_order = torch.cat([pairs & 15, pairs >> 4], dim=-1)
        return [in_order[..., ::2] | in_order[..., 1::2] << 4, exponents[..., 0]]
