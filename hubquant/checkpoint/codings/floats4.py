"""4-bit floats: NVFP4 as compressed-tensors and ModelOpt store it, and MXFP4 as compressed-tensors and DeepSeek do.

NVFP4 has an FP8 scale for each 16 weights and one in F32 for all, which ModelOpt multiplies with (``weight_scale_2``)
and compressed-tensors divides by (``weight_global_scale``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.checkpoint.codings.found import Found, floats, misfit
from hubquant.checkpoint.codings.integers import scaled
from hubquant.checkpoint.headers import TensorInfo
from hubquant.checkpoint.mxfp4 import BLOCK_SIZE, MAGNITUDES, RepackMXFP4, UnpackMXFP4

if TYPE_CHECKING:
    import torch

FACTOR = ".factor"
"""What a weight's name has behind it for the factor of all scales of NVFP4."""
_GROUP = 16  # weights of NVFP4 with one scale
_NO_NUMBER = 0x7F  # and a sign above it
_BLOCK = 64  # weights of GGUF's NVFP4


@dataclass(frozen=True)
class NVFP4:
    """Codes [rows, columns / 2], the first of two in the low half; ``whole`` is a factor of all scales, or ``divides``
    them."""

    weight: TensorInfo
    scales: TensorInfo
    whole: TensorInfo
    divides: bool
    label: str = "NVFP4"

    @property
    def type(self) -> str | None:
        """Its blocks have no place for the factor, which has to be beside them."""
        return None if self.weight.shape[1] * 2 % _BLOCK else "NVFP4"

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        import torch

        codes, whole = read(self.weight), read(self.whole).float().reshape(())
        scales = read(self.scales).float()
        twice = torch.tensor([int(2 * x) for x in (*MAGNITUDES, *(-x for x in MAGNITUDES))], dtype=torch.int8)
        numbers = twice[torch.stack([codes & 15, codes >> 4], -1).flatten(-2).int()]
        return scaled(numbers, (scales / whole if self.divides else scales * whole) / 2, 0)

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        """Four scales and 32 bytes, of which each 8 have the codes of 16 numbers, 8 apart; without the factor. None
        where scales are negative or none, which GGUF's cannot be."""
        import torch

        scales, codes = read(self.scales).view(torch.uint8), read(self.weight)
        if bool((scales >= _NO_NUMBER).any()):
            return None
        rows, n_blocks = scales.shape[0], scales.shape[1] // (_BLOCK // _GROUP)
        in_order = torch.stack([codes & 15, codes >> 4], -1).reshape(rows, -1, 2, _GROUP // 2)
        halves = (in_order[:, :, 0] | in_order[:, :, 1] << 4).reshape(rows, n_blocks, _BLOCK // 2)
        return torch.cat([scales.reshape(rows, n_blocks, -1), halves], -1).flatten(-2)


@dataclass(frozen=True)
class Factor:
    """Of all scales of a matrix in NVFP4, [1]."""

    whole: TensorInfo
    divides: bool
    label: str = "NVFP4"
    type: str | None = None

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        whole = read(self.whole).float().reshape(1)
        return 1 / whole if self.divides else whole

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class MXFP4:
    """Codes [rows, columns / 2] and exponents [rows, columns / 32]."""

    weight: TensorInfo
    exponents: TensorInfo
    label: str = "MXFP4"
    type: str | None = "MXFP4"

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        return UnpackMXFP4().forward(self._parts(read))[0][0].float()

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:
        return RepackMXFP4().forward(self._parts(read))[0][0]

    def _parts(self, read: Callable[[TensorInfo], torch.Tensor]) -> list[torch.Tensor]:
        import torch

        codes, exponents = (read(each).view(torch.uint8) for each in (self.weight, self.exponents))
        return [codes.reshape(1, *exponents.shape, BLOCK_SIZE // 2), exponents[None]]


def find_floats(tensors: Mapping[str, TensorInfo]) -> Iterator[Found]:
    """Raises ``CheckpointError`` for shapes that do not fit together."""
    for name, info in tensors.items():
        if info.dtype != "U8" or len(info.shape) != 2:
            continue
        if name.endswith(".weight_packed"):
            stem, whole = name.removesuffix("_packed"), tensors.get(f"{name.removesuffix('packed')}global_scale")
        elif name.endswith(".weight") and f"{name.removesuffix('weight')}pre_quant_scale" not in tensors:
            stem, whole = name, tensors.get(f"{name}_scale_2")
            if whole is None:
                continue
        else:
            continue
        scales = tensors.get(f"{stem}_scale")
        if scales is None:
            raise misfit(info)
        shape = info.shape[0], 2 * info.shape[1]
        coding: NVFP4 | MXFP4 = MXFP4(info, scales)
        if whole is not None:
            coding = NVFP4(info, scales, whole, divides=name != stem)
        kind, group = ("F8_E4M3", _GROUP) if whole else ("U8", BLOCK_SIZE)
        fits = scales.dtype == kind and scales.shape == (shape[0], shape[1] // group) and not shape[1] % group
        if not fits or 0 in shape or (whole and (math.prod(whole.shape) != 1 or whole.dtype != "F32")):
            raise misfit(info, scales, *([whole] if whole else []))
        if whole is not None:
            factor = Factor(whole, divides=name != stem)
            yield f"{stem}{FACTOR}", TensorInfo(f"{stem}{FACTOR}", "F32", (1,), whole.file, 0, 0, coding=factor), ()
        names = tuple(f"{stem}{part}" for part in ("_packed", "_scale", "_global_scale", "_scale_2"))
        yield stem, floats(stem, shape, scales, coding), names


def find_deepseek(tensors: Mapping[str, TensorInfo]) -> Iterator[Found]:
    """MXFP4 of DeepSeek V4's experts, whose bytes are called integers. Raises ``CheckpointError`` for shapes that do
    not fit together."""
    for name, info in tensors.items():
        scales = tensors.get(f"{name.removesuffix('weight')}scale")
        if info.dtype != "I8" or not name.endswith(".weight") or scales is None or scales.dtype != "F8_E8M0":
            continue
        rows, columns = (info.shape[0], 2 * info.shape[1]) if len(info.shape) == 2 else (0, 0)
        if not rows * columns or scales.shape != (rows, columns // BLOCK_SIZE) or columns % BLOCK_SIZE:
            raise misfit(info, scales)
        yield name, floats(name, (rows, columns), scales, MXFP4(info, scales)), (scales.name,)
