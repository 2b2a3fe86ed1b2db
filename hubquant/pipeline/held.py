"""What tasks hold open together: a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubquant.backends.gguf.backend import GGUF
from hubquant.devices import Device, chosen_device, default_device
from hubquant.engine.task import Context, Shared, Task
from hubquant.recipe.schema import Imatrix
from hubquant.sources.pulled import Pulled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Offload = Literal["none", "cpu", "disk", "stream"]


def other_device(device: Device) -> dict[str, str]:
    """What an artifact is made from besides, where it is made on another device than this machine takes by itself."""
    chosen = chosen_device(device)
    return {} if chosen == default_device() else {"device": chosen}


def rate_on(kind: str, device: Device) -> str:
    """Of tasks that take a time of their own on each device."""
    return " ".join([kind, *other_device(device).values()])


@dataclass(frozen=True)
class LoadedModel(Shared):
    """The source model on ``device``, in its memory or where accelerate puts what does not fit.

    ``max_memory`` holds transformers' limits by device.
    """

    pulled: Pulled
    spread: bool
    on_disk: bool = False
    max_memory: tuple[tuple[str, str], ...] = ()
    device: Device = "auto"

    @classmethod
    def by(cls, pulled: Pulled, settings: Imatrix, offload: Offload, device: Device = "auto") -> LoadedModel:
        """As the settings say; a model that is streamed for the matrix is loaded as a whole for anything else."""
        spread = offload in ("cpu", "disk") or settings.offload in ("auto", "stream")
        return cls(pulled, spread, offload == "disk", tuple(sorted(settings.max_memory.items())), device)

    @contextmanager
    def open(self, context: Context) -> Iterator[PreTrainedModel]:
        from hubquant.models.heap import freed_memory_kept
        from hubquant.models.load import Placement

        source, limits = context.read(self.pulled), dict(self.max_memory)
        if not self.on_disk:
            with freed_memory_kept():
                yield source.load(Placement(spread=self.spread, max_memory=limits), self.device)
            return
        with context.store.scratch(self.pulled) as folder, freed_memory_kept():
            yield source.load(Placement(spread=True, max_memory=limits, disk=folder), self.device)


@dataclass(frozen=True)
class LoadedFile(Shared):
    """A GGUF file's weights, restored in transformers on ``device``."""

    file: Task[Path]
    device: Device = "auto"

    @contextmanager
    def open(self, context: Context) -> Iterator[PreTrainedModel]:
        from hubquant.models.heap import freed_memory_kept

        with freed_memory_kept():
            yield GGUF.restore(context.read(self.file), self.device)
