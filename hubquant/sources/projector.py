"""What a multimodal model sees or hears with, as a source of its own: the weights are those of the model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hubquant.convert.conversion import Conversion
from hubquant.convert.projectors.conversion import plan_projector, projector_of, tower
from hubquant.convert.projectors.otherwise import OTHERWISE
from hubquant.convert.projectors.projector import Projector
from hubquant.errors import NotSupportedYet
from hubquant.gguf_file.metadata import Metadata, string
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from hubquant.hub.pull import RemoteModel

MMPROJ = "mmproj"
"""What llama.cpp calls it: the component's name, and how those of its files begin."""
_WITHOUT = "convert its language model without one"


@dataclass(frozen=True, kw_only=True)
class ProjectorSource(SourceModel):
    """Of the ``whole`` model; the checkpoint has what is beside its language model."""

    whole: SourceModel
    projector: Projector

    @property
    def pulls(self) -> tuple[tuple[RemoteModel, Sequence[str]], ...]:
        return self.whole.pulls

    def on_this_machine(self) -> ProjectorSource:
        return _part_of(self.whole.on_this_machine(), self.projector)

    @property
    def converts_tokenizer(self) -> bool:
        return False

    @property
    def names_as(self) -> str:
        return MMPROJ

    def conversion(self) -> Conversion:
        """Raises ``CheckpointError`` and ``NotSupportedYet``."""
        return plan_projector(self.projector, self.whole.checkpoint.config, self.folder, self.checkpoint)

    def general_metadata(self, shapes: Mapping[str, tuple[int, ...]]) -> Metadata:
        return {**super().general_metadata(shapes), "general.type": string(MMPROJ)}


def projector_source(source: SourceModel) -> ProjectorSource | None:
    """The projector of a multimodal ``source``; None where it has none that can be converted. Raises
    ``NotSupportedYet`` where llama.cpp would compute otherwise, whatever the file says."""
    names = source.checkpoint.config.get("architectures") or ()
    if otherwise := next((OTHERWISE[name] for name in names if name in OTHERWISE), None):
        raise NotSupportedYet(f"a projector of {source.name}", why=otherwise, hint=_WITHOUT)
    projector = projector_of(source.checkpoint.config)
    return None if projector is None else _part_of(source, projector)


def _part_of(whole: SourceModel, projector: Projector) -> ProjectorSource:
    own = {
        "name": f"{MMPROJ}-{whole.name}",
        "checkpoint": tower(projector, whole.checkpoint),
        "component": MMPROJ,
    }
    return ProjectorSource(**{**whole.given(), **own}, whole=whole, projector=projector)


def needed_projector(source: SourceModel) -> ProjectorSource:
    """As :func:`projector_source`. Raises ``NotSupportedYet`` where there is none."""
    if (found := projector_source(source)) is not None:
        return found
    from hubquant.convert.projectors import CLASSES

    classes = ", ".join(source.checkpoint.config.get("architectures") or ["a model without a class"])
    raise NotSupportedYet(
        f"a projector of {source.name}",
        why=f"it is {classes}, and projectors are converted of {', '.join(CLASSES)}",
        hint=_WITHOUT,
    )
