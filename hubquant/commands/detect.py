"""Whether a model is quantized already, by which library and how, and how that is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.backends.detection.detect import Detected
from hubquant.backends.detection.recognise import detect_file, detect_folder, detect_remote
from hubquant.disk import user_path
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.printable import plain
from hubquant.recipe.schema import ModelReference
from hubquant.sources.checkpoint import folder_of

if TYPE_CHECKING:
    from hubquant.hub.access import Token


@dataclass(frozen=True)
class Detection:
    """What was found in ``model``: one of ``components``, or one for each component of a pipeline and for each of
    several files. ``revision`` is the commit of a repository on the Hub."""

    model: str
    revision: str | None
    components: tuple[Detected, ...]

    @property
    def quantized(self) -> bool:
        return any(each.quantized for each in self.components)

    def check(self) -> None:
        """Raises ``CheckpointError`` where something may not be loaded: see :class:`Detected`."""
        for each in self.components:
            each.check()

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "revision": self.revision,
            "quantized": self.quantized,
            "components": [each.as_dict() for each in self.components],
        }

    def __str__(self) -> str:
        return "\n".join(line for each in self.components for line in _lines(each))


def detect(reference: ModelReference, progress: Progress, token: Token = None) -> Detection:
    """Raises ``HubAccessError`` for what is not there or may not be seen, ``CheckpointError`` and ``GGUFError`` for
    what is broken, ``UserError`` for a component that there is not."""
    with progress.doing("reading what the model's files hold"):
        revision, found = _look(reference, token)
    if not found:
        raise UserError(f"{reference.display_name} has no weights that can be read", hint="name a model with weights")
    if reference.component is None:
        return Detection(reference.display_name, revision, found)
    chosen = tuple(each for each in found if each.component == reference.component)
    if not chosen:
        raise UserError(
            f"{reference.display_name} has no component {reference.component}",
            hint=f"it has {', '.join(each.component for each in found if each.component) or 'none'}",
        )
    return Detection(reference.display_name, revision, chosen)


def _look(reference: ModelReference, token: Token) -> tuple[str | None, tuple[Detected, ...]]:
    if reference.id is not None:
        from hubquant.hub.pull import resolve

        remote = resolve(reference.id, reference.revision, token=token)
        return remote.revision, detect_remote(remote)
    if reference.file is not None:
        return None, detect_file(user_path(reference.file))
    return None, detect_folder(folder_of(reference))


def _lines(found: Detected) -> Iterator[str]:
    yield f"{plain(found.component)}: {found}" if found.component else str(found)
    yield from (f"  {plain(each)}" for each in found.evidence)
    if found.problem is not None:
        yield f"  not to be loaded: {plain(found.problem)}"
        yield f"  next: {plain(str(found.hint))}"
