"""What tasks hold open together: a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubquant.backends.gguf.backend import GGUF
from hubquant.engine.task import Context, Shared, Task
from hubquant.recipe.schema import Imatrix
from hubquant.sources.pulled import Pulled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Way = Literal["none", "cpu", "disk", "stream"]


@dataclass(frozen=True)
class LoadedModel(Shared):
    """The source model, in memory or where accelerate puts what does not fit.

    ``max_memory`` holds transformers' limits by device.
    """

    pulled: Pulled
    spread: bool
    on_disk: bool = False
    max_memory: tuple[tuple[str, str], ...] = ()

    @classmethod
    def by(cls, pulled: Pulled, settings: Imatrix, way: Way) -> LoadedModel:
        """As the settings say; a model that is streamed for the matrix is loaded as a whole for anything else."""
        spread = way in ("cpu", "disk") or settings.offload in ("auto", "stream")
        return cls(pulled, spread, way == "disk", tuple(sorted(settings.max_memory.items())))

    @contextmanager
    def open(self, context: Context) -> Iterator[PreTrainedModel]:
        from hubquant.models.load import Placement

        source, limits = context.read(self.pulled), dict(self.max_memory)
        if not self.on_disk:
            yield source.load(Placement(spread=self.spread, max_memory=limits))
            return
        with context.store.scratch(self.pulled) as folder:
            yield source.load(Placement(spread=True, max_memory=limits, disk=folder))


@dataclass(frozen=True)
class LoadedFile(Shared):
    """A GGUF file's weights, restored in transformers."""

    file: Task[Path]

    @contextmanager
    def open(self, context: Context) -> Iterator[PreTrainedModel]:
        yield GGUF.restore(context.read(self.file))
