"""How much noise a denoiser is given, from the timestep that it is called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hubquant.errors import NotSupportedYet

# As the pipelines of diffusers 0.42 call them. Sana's steps are scaled by its config.
_TO_ONE = ("Flux", "Chroma", "QwenImage", "AuraFlow")
_FROM_ONE = ("ZImage", "Lumina2")
_TO_THOUSAND = ("UNet2D", "SD3", "Wan", "LTXVideo", "PixArt", "Sana", "HunyuanVideo", "HiDream")


def check_timesteps(denoiser: torch.nn.Module) -> None:
    """Raise ``NotSupportedYet`` for a denoiser whose timesteps are not understood."""
    if not type(denoiser).__name__.startswith((*_TO_ONE, *_FROM_ONE, *_TO_THOUSAND)):
        raise NotSupportedYet(f"weighting the timesteps of {type(denoiser).__name__}", hint="leave timestep_weight out")


def noise_level(denoiser: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """From 0, a finished picture, to 1, nothing but noise; of a call with several timesteps the largest level."""
    given = next((kwargs[name] for name in ("timestep", "timesteps", "t") if name in kwargs), None)
    timestep = torch.as_tensor(args[1] if given is None else given).double()
    name = type(denoiser).__name__
    if name.startswith(_FROM_ONE):
        return float(1 - timestep.min())
    largest = float(timestep.max())
    if name.startswith(_TO_ONE):
        return largest
    config: Any = denoiser.config
    return largest / (1000 * getattr(config, "timestep_scale", 1.0))
