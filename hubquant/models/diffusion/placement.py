"""Where the weights of a pipeline lie while it draws, and as which numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hubquant.devices import Device, chosen_device, free_device_memory_bytes
from hubquant.engine.machine import free_memory_bytes
from hubquant.errors import UserError
from hubquant.models.diffusion.index import Part
from hubquant.models.diffusion.parts import DENOISERS

Offload = Literal["auto", "none", "model", "sequential", "group"]
NEED_A_GPU = ("model", "sequential")
VAE = "vae"
FOR_WEIGHTS = 0.8
"""The share of free memory that weights may take; what is computed needs the rest."""
WIDE = "float32"
_TORCH = {"F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class PipelinePlacement:
    """``device`` computes. ``offload`` is none, or what diffusers and accelerate call model (one part at a time is on
    the GPU), sequential (one module) and group (one module, and the others on disk if ``disk`` is given). ``dtypes``
    are torch's names of what each part's weights are loaded as."""

    device: str
    offload: Offload
    dtypes: Mapping[str, str]
    disk: Path | None = None


def place(
    parts: Mapping[str, Part], device: Device = "auto", offload: Offload = "auto", disk: Path | None = None
) -> PipelinePlacement:
    """Where ``parts`` go. ``auto`` offloads what would not fit, to main memory or, without a GPU, to ``disk``.

    On a GPU the weights keep the type in which those of the denoiser are stored, the VAE its own. On the CPU they are
    float32 where that fits into memory, as half precision is slow there and rounds what is measured. Raises
    ``UserError`` for what needs a GPU, or ``disk``.
    """
    chosen = chosen_device(device)
    if chosen == "cpu" and offload in NEED_A_GPU:
        raise UserError(
            f"offload {offload} needs a GPU",
            why="it moves weights from main memory to the GPU and back",
            hint="use offload group, which reads weights from disk, or none",
        )
    if chosen == "cpu" and offload == "group" and disk is None:
        raise UserError("offload group without a GPU needs a folder on disk", hint="name a folder for the weights")
    free = free_device_memory_bytes() if chosen == "cuda" else free_memory_bytes()
    stored = stored_dtypes(parts)
    if offload == "auto":
        sizes = [part.n_weights * (4 if stored[name] == WIDE else 2) for name, part in parts.items()]
        offload = automatic_offload(chosen, sizes, free, disk is not None)
    if chosen == "cpu" and _fits(offload, [part.n_weights * 4 for part in parts.values()], free):
        stored = dict.fromkeys(parts, WIDE)
    return PipelinePlacement(chosen, offload, stored, disk)


def stored_dtypes(parts: Mapping[str, Part]) -> dict[str, str]:
    """That of the denoiser for all, as most pipelines hand on what one part gives to the next without casting it; but
    VAEs are float32 where half precision would harm what they draw."""
    denoiser = next((part.dtype for name, part in parts.items() if name in DENOISERS), "F32")
    return {name: _TORCH.get(part.dtype if name == VAE else denoiser, WIDE) for name, part in parts.items()}


def automatic_offload(device: str, sizes: Sequence[int], free: int, has_disk: bool) -> Offload:
    """For parts of these ``sizes`` and ``free`` memory of the device, both in bytes."""
    if _fits("none", sizes, free) or device == "mps":
        return "none"
    if device == "cpu":
        return "group" if has_disk else "none"
    return "model" if _fits("model", sizes, free) else "group"


def _fits(offload: Offload, sizes: Sequence[int], free: int) -> bool:
    """Whether what is loaded at once does."""
    return (sum(sizes) if offload == "none" else max(sizes, default=0)) <= FOR_WEIGHTS * free


def put(name: str, part: Any, placement: PipelinePlacement) -> None:
    """Offload in groups what was loaded just now, so that the next part finds the memory free.

    The VAE stays: it is small, and pipelines read buffers of it while no module of it runs.
    """
    import torch
    from diffusers.hooks import apply_group_offloading

    if getattr(part, "_supports_group_offloading", True) and name != VAE:
        _untie(part)
        folder = placement.disk and placement.disk / name
        if folder:
            folder.mkdir(parents=True)  # diffusers would take what it finds there for the weights
        apply_group_offloading(
            part,
            onload_device=torch.device(placement.device),
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            offload_to_disk_path=folder and str(folder),
        )
    else:
        part.to(placement.device)


def _untie(model: Any) -> None:
    """Give each module a parameter of its own, on the same memory. diffusers writes a module to disk and forgets its
    values before it comes to the next, and so would write no weights for the second of two that share them."""
    import torch

    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                setattr(module, name, torch.nn.Parameter(parameter.detach(), requires_grad=False))
            seen.add(id(parameter))
