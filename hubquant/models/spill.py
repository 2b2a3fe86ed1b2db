"""Hidden states and output layers that lie in files instead of memory."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch

from hubquant.disk import writing
from hubquant.models.stream import BlockOutput, BlockPass

_SMALLEST = 1 << 16  # numbers; a smaller tensor stays where it is


class Spill:
    """Copies what a block returns into memory-mapped files in ``folder``, which the system may write back at any time.

    The files have no name, so that nothing is left of a killed process. Each input has two places for each tensor: what
    a block returns is written while its own input is still there: ``buffers`` are free, ``spare`` hold that input.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def __call__(self, waiting: BlockPass, output: BlockOutput) -> BlockOutput:
        place = iter(waiting.buffers)
        written: list[torch.Tensor] = []

        def keep(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or value.numel() < _SMALLEST:
                return value
            target = next(place, None)
            if target is None or target.shape != value.shape or target.dtype != value.dtype:
                target = self.empty(value.shape, value.dtype)
            written.append(target)
            return target.copy_(value)

        kept = tuple(map(keep, output)) if isinstance(output, tuple) else keep(output)
        waiting.buffers, waiting.spare = waiting.spare, written
        return kept

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Room for a tensor."""
        path = self._folder / f".spilled-{next(self._numbers)}"
        with writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            mapped = torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype)
            path.unlink()
        return mapped.reshape(shape)
