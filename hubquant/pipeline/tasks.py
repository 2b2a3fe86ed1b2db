"""The tasks of a recipe, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.files import FilePlan, Weights
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.convert.conversion import Conversion
from hubquant.engine.task import Task
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.costs import running_cost
from hubquant.pipeline.evaluate import Evaluation, UsedByLlamaCpp
from hubquant.pipeline.held import LoadedModel, Way
from hubquant.pipeline.importance import CollectedImatrix
from hubquant.pipeline.verify import Verification
from hubquant.recipe.schema import Recipe
from hubquant.sources.pulled import Pulled

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.llamacpp.vocabulary import VocabularyCheck


@dataclass(frozen=True)
class FileTasks:
    """Of one file; the last two are None where nothing is evaluated."""

    file: QuantizedFile
    verification: Verification
    evaluation: Evaluation | None
    runtime: UsedByLlamaCpp | None

    @property
    def plan(self) -> FilePlan:
        return self.file.plan


@dataclass(frozen=True)
class RecipeTasks:
    """``imatrix`` is None where none is used, ``baseline`` where nothing is evaluated."""

    imatrix: Task[ImportanceMatrix] | None
    baseline: BaselineTask | None
    files: tuple[FileTasks, ...]

    @property
    def goals(self) -> list[Task[Any]]:
        """What the output is made of; the baseline is needed only where an evaluation is."""
        return [task for task in self if task != self.baseline]

    def __iter__(self) -> Iterator[Task[Any]]:
        """In the order of a plan."""
        found = [
            self.imatrix,
            self.baseline,
            *(each.file for each in self.files),
            *(each.verification for each in self.files),
            *(task for each in self.files for task in (each.evaluation, each.runtime)),
        ]
        return (task for task in found if task is not None)


@dataclass(frozen=True)
class Texts:
    """What is run through the model: None where it is not calibrated, or not evaluated."""

    calibration: Chunks | None
    evaluation: Chunks | None


def recipe_tasks(
    recipe: Recipe,
    pulled: Pulled,
    conversion: Conversion,
    weights: Weights,
    files: Sequence[FilePlan],
    texts: Texts,
    way: Way,
    given: Task[ImportanceMatrix] | None,
    vocabulary: VocabularyCheck | None,
    shard_bytes: int,
) -> RecipeTasks:
    collected = None
    if texts.calibration is not None:
        collected = CollectedImatrix(pulled, conversion, texts.calibration, recipe.imatrix, way)
    imatrix = given or collected
    used = recipe.imatrix.include_weights, recipe.imatrix.exclude_weights
    model = LoadedModel.by(pulled, recipe.imatrix, way)
    baseline = None
    if texts.evaluation is not None:
        baseline = BaselineTask(pulled, texts.evaluation, model, weights.n_parameters, weights.n_vocab)

    def of(plan: FilePlan) -> FileTasks:
        file = QuantizedFile(pulled, conversion, weights, plan, recipe.quantize, shard_bytes, imatrix, *used)
        if baseline is None or vocabulary is None:
            return FileTasks(file, Verification(file), None, None)
        chunks = baseline.chunks
        cost = running_cost(weights.n_parameters, chunks.n_tokens, chunks.chunk_size * weights.n_vocab)
        return FileTasks(
            file,
            Verification(file),
            Evaluation(file, baseline, plan.ftype, cost),
            UsedByLlamaCpp(file, tuple(vocabulary.differing), bool(vocabulary.left_out)),
        )

    return RecipeTasks(imatrix, baseline, tuple(map(of, files)))
