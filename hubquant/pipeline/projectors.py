"""Of a multimodal model the files that it sees or hears with, beside those of its language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hubquant.backends.gguf.backend import GGUF
from hubquant.convert.plain import LANGUAGE_MODEL_ONLY
from hubquant.engine.progress import Progress
from hubquant.errors import CheckpointError, NotSupportedYet
from hubquant.pipeline.tasks import FileTasks
from hubquant.pipeline.verify import Verification
from hubquant.recipe.schema import Quantize, Recipe
from hubquant.sources.component import Component
from hubquant.sources.projector import MMPROJ, ProjectorSource, needed_projector, projector_source

DEFAULT = ("F16",)
_LEFT_OUT = "no {}, which it would see or hear with: {}"


def projector_tasks(
    recipe: Recipe, component: Component, backend: GGUF, progress: Progress
) -> tuple[Sequence[FileTasks], Sequence[str]]:
    """One for each type that the recipe names, and notes. Where it names none and the model has something to see or
    hear with, there is one of F16, or a note on why it cannot be made.

    Raises ``CheckpointError`` and ``NotSupportedYet`` for what is asked for and cannot be made.
    """
    wanted = recipe.convert.mmproj
    is_whole = component.has_vocabulary and not component.source.component
    if wanted == () or not is_whole or not recipe.quantize.of_gguf.types:
        return (), ()
    if wanted is not None:
        return _made(wanted, needed_projector(component.source), backend, progress), ()
    try:
        source = projector_source(component.source)
        return ((), ()) if source is None else (_made(DEFAULT, source, backend, progress), ())
    except (CheckpointError, NotSupportedYet) as error:
        return (), (_LEFT_OUT.format(MMPROJ, error),)


def seeing(component: Component, projectors: Sequence[FileTasks]) -> Component:
    """A language model whose ``projectors`` are made as well, with what there is to note of these: nothing of the
    checkpoint is left out."""
    conversion = component.conversion
    own = (note for note in conversion.notes if not note.startswith(LANGUAGE_MODEL_ONLY))
    theirs = (note for each in projectors for note in each.file.component.conversion.notes)
    return replace(component, conversion=replace(conversion, notes=tuple(dict.fromkeys([*own, *theirs]))))


def _made(types: Sequence[str], source: ProjectorSource, backend: GGUF, progress: Progress) -> Sequence[FileTasks]:
    files = backend.check(Component.projector(source), Quantize(types=tuple(types)), progress).tasks(None)
    named = [replace(file, plan=replace(file.plan, label=f"{MMPROJ}-{file.plan.label}")) for file in files]
    return [FileTasks(file, Verification(file), None, None, None) for file in named]
