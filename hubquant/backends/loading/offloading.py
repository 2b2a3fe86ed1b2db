"""Where the weights of a loaded model lie while it is not computed with them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

from hubquant.backends.rules import Offload
from hubquant.errors import UserError
from hubquant.models.diffusion.index import check_diffusers
from hubquant.units import size

VAE = "vae"


def check_room(offload: Offload, n_bytes: int) -> None:
    """Raises ``UserError`` where weights of ``n_bytes`` have no room on the disk that they would be offloaded to."""
    if offload != "disk":  # in the others the disk takes what is left over, which nobody knows yet
        return
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    if n_bytes > free:
        raise UserError(
            f"there is no room for disk offload in {place}",
            why=f"the weights take about {size(n_bytes)} and {size(free)} are free",
            hint="set TMPDIR to a folder on another disk, or choose offload none",
        )


def check_packages(offload: Offload) -> None:
    """Raises ``UserError`` where something is missing that puts weights there."""
    if offload == "group":
        check_diffusers()


def offload_model(model: Any, offload: Offload, device: str) -> None:
    """Of a model in main memory, that ``device`` is to compute with. What goes to the disk lies in a temporary folder
    that is removed with the model."""
    import accelerate
    import torch

    place = torch.device(device)
    match offload:
        case "none":
            if device != "cpu":
                model.to(place)
        case "cpu":
            accelerate.cpu_offload_with_hook(model, place)
        case "sequential":
            accelerate.cpu_offload(model, place, offload_buffers=bool(model._parameters))
        case "disk":
            accelerate.disk_offload(model, str(folder_of(model)), place, offload_buffers=bool(model._parameters))
        case "balanced":
            _balance(model)
        case "group":
            _group(model, place)


def offload_pipeline(pipe: Any, offload: Offload, device: str) -> None:
    """As :func:`offload_model`, of all models of a pipeline of diffusers."""
    match offload:
        case "none":
            if device != "cpu":
                pipe.to(device)
        case "cpu":
            pipe.enable_model_cpu_offload(device=device)
        case "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        case _:
            import torch

            for name, part in pipe.components.items():
                if isinstance(part, torch.nn.Module) and name != VAE:
                    offload_model(part, offload, device)
                elif name == VAE and part is not None:
                    _keep(part, device)


def _keep(vae: Any, device: str) -> None:
    """On the device, as pipelines read buffers of it while no module of it runs. The first of their models that has a
    hook tells them where to compute: the others may seem to be on no device at all."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(vae.to(device), AlignDevicesHook(execution_device=device))


def folder_of(model: Any) -> Path:
    """A new temporary folder that lives as long as ``model``."""
    folder = tempfile.mkdtemp(prefix="hubquant-offload-")
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _balance(model: Any) -> None:
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or ())
    memory = get_balanced_memory(model, no_split_module_classes=whole)
    places = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    if {*places.values()} != {"cpu"}:  # where everything is already
        dispatch_model(model, places, offload_dir=str(folder_of(model)) if "disk" in places.values() else None)


def _group(model: Any, device: Any) -> None:
    import torch
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(model, onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level")
