"""What a format to quantize to has to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.engine.task import Task
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hubquant.imatrix import ImportanceMatrix

Settings_contra = TypeVar("Settings_contra", contravariant=True)
Written_co = TypeVar("Written_co", bound=Task[Path], covariant=True)


@dataclass(frozen=True)
class ImatrixFacts:
    """What is recorded of the matrix that something was made with; ``tokens_sha256`` is that of the token ids."""

    file: str
    dataset: str
    entries: int
    chunks: int
    tokens_sha256: str | None = None


@dataclass(frozen=True)
class Importance:
    """The matrix that is used: of its entries those of the weights ``covered``, which are what ``include`` and
    ``exclude`` leave (:func:`hubquant.imatrix.selected`)."""

    task: Task[ImportanceMatrix]
    facts: ImatrixFacts
    covered: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class Checked(Protocol[Written_co]):
    """A component that can be written with certain settings, as far as that is known before any weight is read."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of before the work begins."""

    def tasks(self, importance: Importance | None) -> Sequence[Written_co]:
        """One for each file or folder that is written. Raises a ``UserError`` for what needs another matrix."""


class Backend(Protocol[Settings_contra, Written_co]):
    """A format, with the kernels that write it."""

    def check(self, component: Component, settings: Settings_contra, progress: Progress) -> Checked[Written_co]:
        """Raises a ``UserError`` for everything that cannot be written so."""

    def restore(self, path: Path, device: Device = "auto") -> PreTrainedModel:
        """What was written at ``path`` as a transformers model in floats on ``device``, to be measured."""
