"""Integers of a byte each, as compressed-tensors (int-quantized) and bitsandbytes (LLM.int8) store them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.checkpoint.codings.found import Found, floats, misfit
from hubquant.checkpoint.codings.integers import q8_0, scaled
from hubquant.checkpoint.headers import FLOATS, TensorInfo, listed
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    import torch

_LARGEST = 127


@dataclass(frozen=True)
class Bytes:
    """int8 [rows, columns] with a scale for the whole, each row, or groups of a row's columns; ``largest`` where scales
    are those of the largest code. ``order`` is 0 in a file that has its bytes in the order of ``weight``."""

    method: str
    weight: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None = None
    largest: int = 1
    order: TensorInfo | None = None

    @property
    def label(self) -> str:
        return f"{self.method}, int8"

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        zeros: torch.Tensor | int = read(self.zeros).reshape(self._grid()).int() if self.zeros else 0
        return scaled(self._codes(read), self._scales(read), zeros)

    @property
    def type(self) -> str | None:
        return None if self.zeros else "Q8_0"

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        return q8_0(self._codes(read), self._scales(read))

    def _codes(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        if self.order and read(self.order).any():
            raise NotSupportedYet(
                f"{listed([self.weight.name])} in the order of a GPU",
                why=f"{listed([self.order.name])} says so",
                hint="save the model with a newer bitsandbytes, which writes rows",
            )
        return read(self.weight)

    def _scales(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        x = read(self.scales).reshape(self._grid())
        return x if self.largest == 1 else x.float() / self.largest

    def _grid(self) -> tuple[int, int]:
        n, rows = math.prod(self.scales.shape), self.weight.shape[0]
        return (1, 1) if n == 1 else (rows, n // rows)


def of_bytes(name: str, coding: Bytes, names: tuple[str, ...]) -> Found:
    """Raises ``CheckpointError`` where the scales do not fit."""
    info, n = coding.weight, math.prod(coding.scales.shape)
    fits = len(info.shape) == 2 and 0 not in info.shape and coding.scales.dtype in FLOATS
    if not fits or (n != 1 and (not n or n % info.shape[0] or info.shape[1] % (n // info.shape[0]))):
        raise misfit(info, coding.scales)
    if coding.zeros and (coding.zeros.dtype != "I8" or math.prod(coding.zeros.shape) != n):
        raise misfit(info, coding.scales, coding.zeros)
    rows, columns = info.shape
    return name, floats(name, (rows, columns), coding.scales, coding), names


def find_bitsandbytes(tensors: Mapping[str, TensorInfo]) -> Iterator[Found]:
    """Raises ``CheckpointError`` for shapes that do not fit together."""
    for name, info in tensors.items():
        stem = name.removesuffix("weight")
        scales = tensors.get(f"{stem}SCB")
        if name.endswith(".weight") and info.dtype == "I8" and scales:
            order = tensors.get(f"{stem}weight_format")
            coding = Bytes("bitsandbytes", info, scales, largest=_LARGEST, order=order)
            yield of_bytes(name, coding, (f"{stem}SCB", f"{stem}weight_format"))
