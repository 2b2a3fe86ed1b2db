"""What a convolution multiplies with its weight: patches of its input, one for each position of its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import torch
from torch.nn.functional import pad

Convolution = torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d


def patches(layer: Convolution, x: torch.Tensor) -> Iterator[torch.Tensor]:
    """For each offset in the kernel, in the order of the weight, what stands there in all patches of ``x``
    [n, channels, *size]: [n, *size of the output, channels].

    Together they are what ``torch.nn.functional.unfold`` gives, one column of the kernel at a time: all of them need
    as many times the memory of ``x`` as the kernel has numbers.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    batched = x if x.dim() == len(layer.kernel_size) + 2 else x[None]
    padded = pad(batched, layer._reversed_padding_repeated_twice, mode)
    reaches = [dilation * (size - 1) for dilation, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    lengths = [length - reach for length, reach in zip(padded.shape[2:], reaches, strict=True)]
    for offset in product(*map(range, layer.kernel_size)):
        starts = [i * dilation for i, dilation in zip(offset, layer.dilation, strict=True)]
        places = zip(starts, lengths, layer.stride, strict=True)
        window = tuple(slice(start, start + length, stride) for start, length, stride in places)
        yield padded[(slice(None), slice(None), *window)].movedim(1, -1)


def kernel_size(layer: torch.nn.Module) -> int:
    """Numbers in the kernel of a layer: one in a linear one."""
    return prod(layer.kernel_size) if isinstance(layer, Convolution) else 1


def columns(layer: torch.nn.Module) -> int:
    """Of a layer's weight, [rows, ...] flattened to a matrix."""
    if isinstance(layer, Convolution):
        return layer.in_channels * prod(layer.kernel_size)
    assert isinstance(layer, torch.nn.Linear)
    return layer.in_features


def side_by_side(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of what is known of the channels at each offset, [1, channels] each, that of the weight's columns."""
    return torch.stack([part[0] for part in parts], dim=1).reshape(1, -1)
