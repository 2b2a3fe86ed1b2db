"""What a recipe comes to: the source, what it is run on, the files and the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.backends.backend import Importance
from hubquant.backends.folder import FolderPlan
from hubquant.backends.gguf.backend import CheckedGGUF
from hubquant.backends.gguf.files import FilePlan
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.engine.progress import Progress
from hubquant.llamacpp.process import is_installed
from hubquant.pipeline.budgets import Chosen
from hubquant.pipeline.drawing.source import DrawnBySource
from hubquant.pipeline.in_llamacpp import check_installed
from hubquant.pipeline.tasks import RecipeTasks, Texts, drawing_tasks, recipe_tasks
from hubquant.recipe.schema import Convert, Evaluate, ModelReference, Recipe, TextSource
from hubquant.sources.component import Component
from hubquant.sources.open import open_component
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Precision
    from hubquant.hub.access import Token


@dataclass(frozen=True)
class Prompts:
    """Of the pictures that a diffusion model draws, one for each: None where it is not calibrated, or not
    evaluated."""

    calibration: tuple[str, ...] | None
    evaluation: tuple[str, ...] | None


@dataclass(frozen=True)
class Work:
    """``checked`` is what the files hold; ``importance`` is None where no matrix is used, and ``prompts`` where no
    pictures are drawn. ``chosen`` are the types of files whose size is given, which the ``recipe`` holds as well; they
    are ``undecided`` until what they are chosen by is measured."""

    recipe: Recipe
    component: Component
    checked: CheckedGGUF
    importance: Importance | None
    texts: Texts
    tasks: RecipeTasks
    notes: Sequence[str]
    prompts: Prompts | None = None
    chosen: Sequence[Chosen] = ()
    undecided: bool = False

    @property
    def source(self) -> SourceModel:
        return self.component.source

    @property
    def files(self) -> list[FilePlan]:
        return [each.plan for each in self.tasks.files]

    @property
    def projectors(self) -> list[FilePlan]:
        return [each.plan for each in self.tasks.projectors]

    @property
    def folders(self) -> list[FolderPlan]:
        return [each.plan for each in self.tasks.folders]

    @property
    def drafting_notes(self) -> list[str]:
        """What is not known of layers that predict further tokens, which the model does not run."""
        drafting = self.component.conversion.drafting
        blocks = sorted({".".join(name.split(".")[:2]) for name in drafting})
        importance = ["has no importance"] if self.importance and not drafting & {*self.importance.covered} else []
        lacks = [*importance, *(["is not measured"] if self.tasks.baseline else [])]
        which = "which predicts further tokens for llama.cpp to draft with"
        return [f"{block}, {which}, {' and '.join(lacks)}: the model does not run it" for block in blocks if lacks]

    @property
    def made(self) -> list[FilePlan | FolderPlan]:
        return [*self.files, *self.folders]

    @property
    def written(self) -> list[FilePlan | FolderPlan]:
        """With what goes along with each of those that are measured."""
        return [*self.made, *self.projectors]

    @property
    def names(self) -> set[str]:
        """Of files without their suffixes, and of folders."""
        return {Path(file.name).stem for file in self.files} | {folder.name for folder in self.folders}

    def making(self, files: Sequence[QuantizedFile]) -> RecipeTasks:
        """Files with this matrix, verified and measured as the recipe says: of a denoiser one for each type that is
        ``checked``."""
        recipe, baseline = self.recipe, self.tasks.baseline
        matrix = self.importance.task if self.importance else None
        if isinstance(baseline, DrawnBySource) or self.component.denoises:
            assert baseline is None or isinstance(baseline, DrawnBySource)
            compared = recipe.imatrix.compare and baseline is not None
            others = self.checked.without_imatrix(self.importance) if compared else [None] * len(files)
            plain = [other if file.uses_imatrix else None for file, other in zip(files, others, strict=True)]
            return drawing_tasks(files, plain, matrix, baseline)
        held_out = self.tasks.held_out
        alone = self.checked.without_feedback(self.importance) if held_out else files
        plain = [other if file.moments and held_out else None for file, other in zip(files, alone, strict=True)]
        names = text_names(recipe.evaluate.sources, self.texts.evaluation)
        until, in_llamacpp = precision(recipe.evaluate), asks_llama_cpp(recipe.evaluate.engine)
        vocabulary = self.checked.vocabulary
        return recipe_tasks(files, plain, matrix, baseline, held_out, vocabulary, names, until, in_llamacpp=in_llamacpp)


def open_model(
    reference: ModelReference, convert: Convert | None, progress: Progress, token: Token = None
) -> Component:
    """The language model of a source, not pulled yet."""
    with progress.doing("reading what the model's files hold"):
        return open_component(reference, convert, token)


def asks_llama_cpp(engine: str) -> bool:
    """Raises ``UserError`` where it is to be asked and is not there."""
    if engine == "both":
        check_installed()
    return engine != "torch" and is_installed()


def collects(recipe: Recipe) -> bool:
    """A matrix, which only GGUF files are made with."""
    return not recipe.imatrix.skip and not recipe.imatrix.given and bool(recipe.quantize.of_gguf.types)


def precision(settings: Evaluate) -> Precision | None:
    """That is asked for."""
    if settings.margin is None:
        return None
    from hubquant.evaluate import Precision

    return Precision(settings.confidence, settings.margin)


def text_names(sources: Sequence[TextSource], chunks: Chunks | None) -> tuple[str, ...]:
    """Of each of ``chunks``, the name of its source or ""; empty where no source of several has one."""
    if chunks is None or len(sources) < 2 or not any(source.name for source in sources):
        return ()
    from hubquant.calibration.chunks import sources_of

    return tuple(sources[i].name or "" for i in sources_of(chunks.shares))
