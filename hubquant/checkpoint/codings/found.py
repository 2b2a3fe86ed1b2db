"""What the forms of quantized weights have in common: how a weight is named and typed, and when its parts misfit."""

from __future__ import annotations

from hubquant.checkpoint.headers import Coding, TensorInfo, listed
from hubquant.errors import CheckpointError

Found = tuple[str, TensorInfo, tuple[str, ...]]
"""A weight's name, what it is, and the names of what belongs to it."""


def floats(name: str, shape: tuple[int, int], scales: TensorInfo, coding: Coding) -> TensorInfo:
    """A weight [rows, columns]: floats as its scales are, where these are floats of 16 bits."""
    return TensorInfo(name, "F16" if scales.dtype == "F16" else "BF16", shape, scales.file, 0, 0, coding=coding)


def misfit(*parts: TensorInfo) -> CheckpointError:
    """Of a weight and what belongs to it."""
    found = ", ".join(f"{x.name.rpartition('.')[2]} {x.dtype} {list(x.shape)}" for x in parts)
    return CheckpointError(
        f"the parts of {listed([parts[0].name])} do not fit together",
        why=found,
        hint="compare them and the quantization_config of config.json with the repository that the model comes from",
    )
