"""The tasks of a recipe, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.files import FilePlan
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.engine.task import Task
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.costs import REPORT_BYTES, evaluating_cost
from hubquant.pipeline.evaluate import Evaluation, UsedByLlamaCpp
from hubquant.pipeline.streamed import LastBlock, StreamedEvaluation
from hubquant.pipeline.verify import Verification

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.llamacpp.vocabulary import VocabularyCheck


@dataclass(frozen=True)
class FileTasks:
    """Of one file; the last two are None where nothing is evaluated."""

    file: QuantizedFile
    verification: Verification
    evaluation: Evaluation | StreamedEvaluation | None
    runtime: UsedByLlamaCpp | None

    @property
    def plan(self) -> FilePlan:
        return self.file.plan


@dataclass(frozen=True)
class RecipeTasks:
    """``imatrix`` is None where none is used, ``baseline`` where nothing is evaluated."""

    imatrix: Task[ImportanceMatrix] | None
    baseline: BaselineTask | LastBlock | None
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
    files: Sequence[QuantizedFile],
    imatrix: Task[ImportanceMatrix] | None,
    baseline: BaselineTask | LastBlock | None,
    vocabulary: VocabularyCheck | None,
    texts: tuple[str, ...] = (),
) -> RecipeTasks:
    """``vocabulary`` is known where there is a ``baseline``, on whose device the files are measured too; ``texts`` name
    the text of each of its chunks."""

    def of(file: QuantizedFile) -> FileTasks:
        if baseline is None or vocabulary is None:
            return FileTasks(file, Verification(file), None, None)
        facts = tuple(vocabulary.differing), bool(vocabulary.left_out)
        if isinstance(baseline, LastBlock):
            device = baseline.device
            evaluation: Evaluation | StreamedEvaluation = StreamedEvaluation(file, baseline, file.plan.label, texts)
        else:
            device = baseline.model.device
            cost = evaluating_cost(file.component, baseline.chunks, REPORT_BYTES * baseline.chunks.n_tokens, device)
            evaluation = Evaluation(file, baseline, file.plan.label, cost, device, texts)
        runtime = UsedByLlamaCpp(file, *facts, device, streamed=isinstance(baseline, LastBlock))
        return FileTasks(file, Verification(file), evaluation, runtime)

    return RecipeTasks(imatrix, baseline, tuple(map(of, files)))
