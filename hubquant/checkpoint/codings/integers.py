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

    step = max(1, _AT_A_TIME * bits // (WORD * max(1, words.shape[-1])))
    if len(words) > step:  # what is in between takes several times as much as the result
        return torch.cat([unpacked(part, bits, padded=padded) for part in torch.split(words, step)])
    if bits in (4, 8):
        found = words.contiguous().view(torch.uint8)
        return found if bits == 8 else torch.stack([found & 15, found >> 4], -1).flatten(-2)
    most, dense = (1 << bits) - 1, not padded and WORD % bits
    n_words, n_numbers = (bits, WORD) if dense else (1, WORD // bits)  # that begin and end together
    whole = torch.nn.functional.pad(words, (0, -words.shape[-1] % n_words))
    periods = whole.reshape(*words.shape[:-1], -1, n_words)
    result = torch.empty(*periods.shape[:-1], n_numbers, dtype=torch.uint8)
    for i in range(n_numbers):
        word, shift = divmod(i * bits, WORD)
        number = periods[..., word] >> shift
        if (rest := shift + bits - WORD) > 0:  # of its bits are in the next word; signs fill the first
            number = number & ((1 << (bits - rest)) - 1) | (periods[..., word + 1] & ((1 << rest) - 1)) << (bits - rest)
        result[..., i] = number & most
    return result.flatten(-2)[..., : words.shape[-1] * WORD // bits if dense else None]


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
        """For the columns of each group."""
        x = (x if x.shape[0] == 1 else x[part]).float()
        return x[..., None] if groups is None else x[:, groups if x.shape[1] > 1 else torch.zeros_like(groups)]

    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        each, out = codes[part].float(), result[part]
        if groups is None:
            n_groups = max(scales.shape[1], zeros.shape[1] if isinstance(zeros, torch.Tensor) else 1)
            each, out = each.view(len(each), n_groups, -1), out.view(len(each), n_groups, -1)
        torch.mul(
            each - (spread(zeros, part) if isinstance(zeros, torch.Tensor) else zeros), spread(scales, part), out=out
        )
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
