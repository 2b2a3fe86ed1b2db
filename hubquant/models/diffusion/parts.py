"""The parts of a pipeline that predict noise: what is quantized."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from hubquant.errors import CheckpointError

if TYPE_CHECKING:
    import torch

DENOISERS = ("transformer", "transformer_2", "unet")
"""What diffusers calls them. Wan 2.2 has two, for the first and the last steps."""


def denoisers(pipe: Any) -> dict[str, torch.nn.Module]:
    """By their names in the pipeline. Raises ``CheckpointError`` when there is none."""
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    check_denoiser(type(pipe), parts)
    return {name: parts[name] for name in DENOISERS if name in parts}


def denoiser(pipe: Any) -> torch.nn.Module:
    """The one, or of several the first. Raises ``CheckpointError`` as :func:`denoisers` does."""
    return next(iter(denoisers(pipe).values()))


def check_denoiser(kind: type[Any], parts: Collection[str]) -> None:
    """Raises ``CheckpointError`` where the ``parts`` of a pipeline of this ``kind``, by their names, have none."""
    if not any(name in parts for name in DENOISERS):
        raise CheckpointError(
            f"{kind.__name__} has no denoiser",
            why=f"none of its parts is called {' or '.join(DENOISERS)}: it has {', '.join(parts)}",
            hint="use a pipeline that draws by denoising, such as that of stabilityai/stable-diffusion-3.5-medium",
        )
