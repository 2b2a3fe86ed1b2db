"""A folder that a library has quantized, as a model in memory."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from hubquant.backends.libraries.library import LibraryBackend
from hubquant.backends.libraries.registry import library
from hubquant.backends.safely import loading
from hubquant.checkpoint.json_files import CONFIG, read_table
from hubquant.models.classes import model_class
from hubquant.models.diffusion.index import class_of_diffusers
from hubquant.models.diffusion.quiet import quiet_diffusers


def restored(folder: Path, backend: str, device: str, **options: Any) -> Any:
    """The language model in ``folder`` in eval mode, loaded by ``backend`` without any remote code. ``options`` are
    ``from_pretrained``'s, such as dtype. Raises ``CheckpointError``."""
    return opening(folder, backend, device, **options)()


def opening(folder: Path, backend: str, device: str, **options: Any) -> Callable[[], Any]:
    """What gives :func:`restored`, when all that has to be imported for it is."""
    from transformers import AutoConfig, GenerationMixin, quantizers  # noqa: F401  (what loading imports)

    by = _imported(backend)
    with loading(folder.name):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        kind = model_class(config, generates=True)
    place = {} if device == "cpu" else {"device_map": device}

    def load() -> Any:
        with loading(folder.name):
            return by.load(folder, kind, "transformers", **place, **options).eval()

    return load


def opening_denoiser(folder: Path, backend: str, device: str, dtype: str) -> Callable[[], Any]:
    """As :func:`opening`, of a denoiser of diffusers; ``dtype`` is torch's name of that in which it computes."""
    import torch

    by = _imported(backend)
    name = read_table(folder / CONFIG, hint="make the folder again").get("_class_name")
    kind = class_of_diffusers(name, f"{CONFIG} of {folder.name}")
    options = {"torch_dtype": getattr(torch, dtype), **({} if device == "cpu" else {"device_map": device})}

    def load() -> Any:
        with quiet_diffusers(), loading(folder.name):
            return by.load(folder, kind, "diffusers", local_files_only=True, **options).eval()

    return load


def _imported(backend: str) -> LibraryBackend:
    by = library(backend)
    by.package.check()
    import_module(by.package.module or by.package.name)
    return by
