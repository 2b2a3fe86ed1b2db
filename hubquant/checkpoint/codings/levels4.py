"""4 bits of bitsandbytes (nf4, fp4): numbers of a table, times the largest of each block of a flat matrix.

As ``QuantState`` of bitsandbytes 0.50 lies in safetensors. With double quantization the largest ones are codes of 8
bits themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hubquant.checkpoint.codings.found import Found, floats, misfit
from hubquant.checkpoint.headers import TensorInfo, listed, load_json
from hubquant.errors import CheckpointError
from hubquant.typed import Typed, read_typed

if TYPE_CHECKING:
    import torch

_KINDS = ("nf4", "fp4")
_STATE = ".quant_state.bitsandbytes__"
_NESTED = (".nested_absmax", ".nested_quant_map")
_AT_A_TIME = 1 << 24  # weights


class _State(Typed):
    blocksize: int
    shape: list[int]
    nested_blocksize: int = 1
    nested_offset: float = 0.0


@dataclass(frozen=True)
class FourBits:
    """Codes of ``kind``, the first of two in the high half, of a matrix whose ``shape`` the model knows; ``state`` is
    JSON. ``nested`` are the largest ones of the largest ones, and the numbers of their codes."""

    kind: str
    weight: TensorInfo
    largest: TensorInfo
    numbers: TensorInfo
    state: TensorInfo
    nested: tuple[TensorInfo, TensorInfo] | None
    shape: tuple[int, ...] | None = None
    type: str | None = None

    @property
    def label(self) -> str:
        return f"bitsandbytes, {self.kind}"

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        import torch

        state = self._state(read)
        codes, numbers, largest = read(self.weight).flatten(), read(self.numbers).float(), self._largest(read, state)
        if 2 * len(codes) != math.prod(state.shape) or len(largest) * state.blocksize < 2 * len(codes):
            raise misfit(self.weight, self.largest)
        result = torch.empty(2 * len(codes))
        step = max(1, _AT_A_TIME // state.blocksize) * state.blocksize
        for begin in range(0, len(result), step):
            out, part = result[begin : begin + step], codes[begin // 2 : (begin + step) // 2]
            out.copy_(numbers[torch.stack([part >> 4, part & 15], -1).flatten().int()])
            blocks = largest[begin // state.blocksize : (begin + step) // state.blocksize]
            out *= blocks.repeat_interleave(state.blocksize)[: len(out)]
        return result.view(state.shape)

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        return None

    def _state(self, read: Callable[[TensorInfo], torch.Tensor]) -> _State:
        name = listed([self.state.name])
        try:
            content = load_json(bytes(read(self.state).tolist()))
        except ValueError as error:
            raise CheckpointError(f"{name} is not sound JSON", why=str(error), hint="fetch the files again") from None
        state = read_typed(_State, content, name, CheckpointError)
        usual = state.blocksize > 0 and not state.blocksize % 2 and state.nested_blocksize > 0
        if self.shape != tuple(state.shape) or not usual:
            raise CheckpointError(
                f"{name} tells of a matrix {state.shape} in blocks of {state.blocksize}",
                why=f"by config.json it is {list(self.shape or ())}",
                hint="compare the files with those of the repository that the model comes from",
            )
        return state

    def _largest(self, read: Callable[[TensorInfo], torch.Tensor], state: _State) -> torch.Tensor:
        """Of each block."""
        x = read(self.largest)
        if self.nested is None:
            return x.float()
        factors, numbers = (read(info).float() for info in self.nested)
        if len(factors) * state.nested_blocksize < len(x):
            raise misfit(self.largest, self.nested[0])
        found: torch.Tensor = numbers[x.int()] * factors.repeat_interleave(state.nested_blocksize)[: len(x)]
        return found + state.nested_offset


def find_four_bits(tensors: Mapping[str, TensorInfo]) -> Iterator[Found]:
    """Flat, [1, n]: the headers do not tell the shape. Raises ``CheckpointError`` for parts that do not fit."""
    for name, weight in tensors.items():
        kind = next((kind for kind in _KINDS if f"{name}{_STATE}{kind}" in tensors), None)
        if kind is None:
            continue
        largest, numbers = tensors.get(f"{name}.absmax"), tensors.get(f"{name}.quant_map")
        state, inner = tensors[f"{name}{_STATE}{kind}"], [tensors.get(f"{name}{part}") for part in _NESTED]
        if largest is None or numbers is None or (largest.dtype == "U8" and None in inner):
            raise misfit(weight, state)
        nested = (inner[0], inner[1]) if inner[0] and inner[1] else None
        maps = [(numbers, 16), *([(nested[1], 256)] if nested else [])]
        if (
            (weight.dtype, state.dtype, largest.dtype) != ("U8", "U8", "U8" if nested else "F32")
            or any(info.dtype != "F32" or math.prod(info.shape) != count for info, count in maps)
            or not math.prod(weight.shape)
            or (nested and nested[0].dtype != "F32")
        ):
            raise misfit(weight, largest, numbers, state)
        coding = FourBits(kind, weight, largest, numbers, state, nested)
        parts = tuple(f"{name}{part}" for part in (".absmax", ".quant_map", f"{_STATE}{kind}", *_NESTED))
        yield name, floats(name, (1, 2 * math.prod(weight.shape)), largest, coding), parts


def flat(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether there are matrices whose shape is not known yet."""
    return any(isinstance(info.coding, FourBits) and info.coding.shape is None for info in tensors.values())


def in_shape(tensors: Mapping[str, TensorInfo], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """The same tensors, flat ones in the ``shapes`` that the model has for as many numbers."""
    found = dict(tensors)
    for name, info in tensors.items():
        shape = shapes.get(name)
        if isinstance(info.coding, FourBits) and shape and math.prod(shape) == math.prod(info.shape):
            found[name] = replace(info, shape=shape, coding=replace(info.coding, shape=shape))
    return found
