"""Weights of −1, 0 and 1 as BitNet's layers in transformers store them: four rows in one, with a scale for the whole.

``BitLinear`` divides by the scale, and ``AutoBitLinear`` multiplies with it (transformers.integrations.bitnet).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.checkpoint.codings.found import Found, floats, misfit
from hubquant.checkpoint.codings.integers import scaled
from hubquant.checkpoint.headers import FLOATS, TensorInfo
from hubquant.errors import NotSupportedYet

if TYPE_CHECKING:
    import torch

_BITS = (0, 2, 4, 6)


@dataclass(frozen=True)
class Ternary:
    """uint8 [rows / 4, columns]: the first quarter of the rows in the lowest two bits, as 0, 1 and 2."""

    weight: TensorInfo
    scale: TensorInfo
    divides: bool
    label: str = "BitNet, whose layers round their inputs to 8 bits as well"
    type: str | None = None  # TQ1_0 and TQ2_0 find the codes again

    def decode(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor:
        import torch

        quarters, scale = read(self.weight), read(self.scale).float().reshape(1, 1)
        codes = torch.cat([quarters >> bits & 3 for bits in _BITS])
        return scaled(codes, 1 / scale if self.divides else scale, 1)

    def blocks(self, read: Callable[[TensorInfo], torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        return None


def find_ternary(tensors: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> Iterator[Found]:
    """Nothing where each layer has a norm of its own. Raises ``CheckpointError`` for shapes that do not fit together,
    ``NotSupportedYet`` for weights that are rounded only when they are used."""
    by_hand = settings.get("linear_class") == "autobitlinear"
    if by_hand and settings.get("quantization_mode") == "online":
        raise NotSupportedYet(
            "weights that are rounded to -1, 0 and 1 whenever they are used (quantization_mode online)",
            why="llama.cpp computes with weights as they are stored",
            hint="convert the packed model that was made of this one (quantization_mode offline)",
        )
    if settings.get("use_rms_norm"):
        return
    for name, scale in tensors.items():
        stem = name.removesuffix("_scale")
        if name.endswith(".weight_scale") and (info := tensors.get(stem)):
            if info.dtype != "U8" or len(info.shape) != 2 or scale.dtype not in FLOATS or math.prod(scale.shape) != 1:
                raise misfit(info, scale)
            shape = len(_BITS) * info.shape[0], info.shape[1]
            yield stem, floats(stem, shape, scale, Ternary(info, scale, not by_hand)), (name,)
