"""Integers of a few bits that are packed into words, and the floats that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORD = 32  # bits
BLOCK = 32
"""Weights of a block of Q4_0 and Q8_0."""
_AT_A_TIME = 1 << 24  # weights that are in float32 beside the result


def unpacked(words: torch.Tensor, bits: int, *, padded: bool = False) -> torch.Tensor:
    """int32 [..., n] becomes uint8 [..., 32 * n / bits], the lowest bits of the first word first.

    The numbers follow each other without a gap, from one word into the next; where ``padded``, each word holds as many
    as are whole in it.
    """
    import torch

    if bits in (4, 8):
        found = words.contiguous().view(torch.uint8)
        return found if bits == 8 else torch.stack([found & 15, found >> 4], -1).flatten(-2)
    most = (1 << bits) - 1
    if padded or WORD % bits == 0:
        shifts = torch.arange(0, WORD - bits + 1, bits, dtype=torch.int32)
        return ((words[..., None] >> shifts) & most).to(torch.uint8).flatten(-2)
    n_numbers = words.shape[-1] * WORD // bits
    begins = torch.arange(n_numbers) * bits
    word, shift = begins // WORD, begins % WORD
    first = (words.long() & 0xFFFFFFFF)[..., word] >> shift
    following = words.long()[..., (word + 1).clamp(max=words.shape[-1] - 1)] << (WORD - shift)
    return ((first | following) & most).to(torch.uint8)


def scaled(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | int, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """(codes - zeros) * scales in float32, [rows, columns] as ``codes`` are.

    ``scales`` and ``zeros`` are [rows, n_groups] or, of one row, the same for all; ``groups`` [columns] is the number
    of each column's group, without which groups are neighbours and equally large.
    """
    import torch

    rows, columns = codes.shape
    result = torch.empty(rows, columns)
    step = max(1, _AT_A_TIME // max(1, columns))

    def spread(x: torch.Tensor, part: slice) -> torch.Tensor:
        x = x if x.shape[0] == 1 else x[part]
        if x.shape[1] == 1:
            return x.float()
        return (x[:, groups] if groups is not None else x.repeat_interleave(columns // x.shape[1], 1)).float()

    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        shifted = codes[part].float() - (spread(zeros, part) if isinstance(zeros, torch.Tensor) else zeros)
        torch.mul(shifted, spread(scales, part), out=result[part])
    return result


def q4_0(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor | None:
    """``codes`` [rows, columns] around 8, uint8 below 16, times ``scales`` [rows, n_groups] in blocks of Q4_0, uint8
    [rows, 18 * columns / 32]; None where groups are no whole blocks or F16 does not hold every scale."""
    import torch

    begins = _scales_of_blocks(codes, scales)
    if begins is None:
        return None
    blocks = codes.reshape(*begins.shape[:2], BLOCK)
    return torch.cat([begins, blocks[..., : BLOCK // 2] | blocks[..., BLOCK // 2 :] << 4], -1).flatten(-2)


def q8_0(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor | None:
    """int8 ``codes`` [rows, columns] times ``scales`` [rows, n_groups] in blocks of Q8_0, uint8
    [rows, 34 * columns / 32]; None as of :func:`q4_0`."""
    import torch

    begins = _scales_of_blocks(codes, scales)
    if begins is None:
        return None
    return torch.cat([begins, codes.contiguous().view(torch.uint8).reshape(*begins.shape[:2], BLOCK)], -1).flatten(-2)


def _scales_of_blocks(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor | None:
    """The bytes that each block begins with, uint8 [rows, n_blocks, 2]."""
    import torch

    rows, columns = codes.shape
    scales = scales.expand(rows, -1)
    half = scales.half()
    if columns % (BLOCK * scales.shape[1]) or not torch.equal(half.float(), scales.float()):
        return None
    of_blocks = half.repeat_interleave(columns // BLOCK // scales.shape[1], 1)
    return of_blocks[..., None].contiguous().view(torch.uint8)
