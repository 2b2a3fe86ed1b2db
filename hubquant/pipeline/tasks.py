"""The tasks of a recipe, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.files import FilePlan
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.engine.task import Context, Task
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.costs import REPORT_BYTES, evaluating_cost
from hubquant.pipeline.drawing.in_diffusers import UsedByDiffusers
from hubquant.pipeline.drawing.measured import DrawingEvaluation
from hubquant.pipeline.drawing.source import DrawnBySource
from hubquant.pipeline.embeddings import EmbeddingEvaluation, EmbeddingsTask
from hubquant.pipeline.evaluate import Evaluation, UsedByLlamaCpp
from hubquant.pipeline.folders import FolderTasks, SpeedInLlamaCpp
from hubquant.pipeline.in_llamacpp import IN_A_RUN, EvaluationInLlamaCpp
from hubquant.pipeline.streamed import LastBlock, StreamedEvaluation
from hubquant.pipeline.verify import Verification

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Precision
    from hubquant.evaluate.sensitivity import Sensitivities
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.llamacpp.vocabulary import VocabularyCheck


@dataclass(frozen=True)
class FileTasks:
    """Of one file; the three after its verification are None where nothing is evaluated, ``in_llamacpp`` also where
    llama.cpp is not asked, and both of llama.cpp of an encoder and of a denoiser. ``plain`` is the file that would be
    made without the importance matrix, where both are made to be compared; ``in_diffusers`` tells of the better one,
    and is None where diffusers does not load it."""

    file: QuantizedFile
    verification: Verification
    evaluation: Evaluation | StreamedEvaluation | EmbeddingEvaluation | DrawingEvaluation | None
    in_llamacpp: EvaluationInLlamaCpp | None
    runtime: UsedByLlamaCpp | None
    plain: FileTasks | None = None
    in_diffusers: UsedByDiffusers | None = None

    def kept(self, context: Context) -> FileTasks:
        """These, or of two files that were compared those of the better one, with what was measured of it."""
        if self.plain is not None and isinstance(self.evaluation, DrawingEvaluation):
            found = context.read(self.evaluation)
            if found.with_imatrix is False:
                return replace(self.plain, evaluation=self.evaluation, in_diffusers=self.in_diffusers)
        return self

    @property
    def plan(self) -> FilePlan:
        return self.file.plan


@dataclass(frozen=True)
class RecipeTasks:
    """``imatrix`` is None where none is used, ``baseline`` where nothing is evaluated; ``folders`` are those of
    libraries, and ``speeds`` those of files beside them; ``sensitivity`` is what the types of files of a given size are
    chosen by, None where there are none."""

    imatrix: Task[ImportanceMatrix] | None
    baseline: BaselineTask | LastBlock | EmbeddingsTask | DrawnBySource | None
    files: tuple[FileTasks, ...]
    folders: tuple[FolderTasks, ...] = ()
    speeds: tuple[SpeedInLlamaCpp, ...] = ()
    sensitivity: Task[Sensitivities] | None = None

    @property
    def goals(self) -> list[Task[Any]]:
        """What the output is made of; the baseline is needed only where an evaluation is."""
        return [task for task in self if task != self.baseline]

    @property
    def _all(self) -> list[FileTasks]:
        """With those that others are compared with."""
        return [one for each in self.files for one in (each, each.plain) if one is not None]

    @property
    def drawings(self) -> list[DrawingEvaluation]:
        """Of files and folders."""
        found = [*(each.evaluation for each in self.files), *(each.evaluation for each in self.folders)]
        return [each for each in found if isinstance(each, DrawingEvaluation)]

    def __iter__(self) -> Iterator[Task[Any]]:
        """In the order of a plan."""
        found = [
            self.imatrix,
            self.sensitivity,
            self.baseline,
            *(each.file for each in self._all),
            *(each.verification for each in self._all),
            *(
                task
                for each in self.files
                for task in (each.evaluation, each.in_llamacpp, each.runtime, each.in_diffusers)
            ),
            *self.speeds,
            *(task for each in self.folders for task in (each.folder, each.reloaded, each.evaluation)),
        ]
        return (task for task in found if task is not None)


def drawing_tasks(
    files: Sequence[QuantizedFile],
    plain: Sequence[QuantizedFile | None],
    imatrix: Task[ImportanceMatrix] | None,
    baseline: DrawnBySource | None,
) -> RecipeTasks:
    """Of a denoiser. ``plain`` has of each file that without the matrix, None where none is compared with it."""

    def of(file: QuantizedFile, plain: QuantizedFile | None) -> FileTasks:
        evaluation = DrawingEvaluation(file, plain, baseline, file.plan.label) if baseline else None
        other = FileTasks(plain, Verification(plain), None, None, None) if plain else None
        checked = UsedByDiffusers.of(evaluation) if evaluation else None
        return FileTasks(file, Verification(file), evaluation, None, None, other, checked)

    return RecipeTasks(imatrix, baseline, tuple(map(of, files, plain)))


@dataclass(frozen=True)
class Texts:
    """What is run through the model: None where it is not calibrated, or not evaluated."""

    calibration: Chunks | None
    evaluation: Chunks | None


def recipe_tasks(
    files: Sequence[QuantizedFile],
    imatrix: Task[ImportanceMatrix] | None,
    baseline: BaselineTask | LastBlock | EmbeddingsTask | None,
    vocabulary: VocabularyCheck | None,
    texts: tuple[str, ...] = (),
    until: Precision | None = None,
    *,
    in_llamacpp: bool = False,
) -> RecipeTasks:
    """``vocabulary`` is known where there is a ``baseline``, on whose device the files are measured too, and
    ``in_llamacpp`` besides unless they are streamed; ``texts`` name the text of each of its chunks, which are
    measured ``until`` a precision is reached unless they are streamed."""

    def of(file: QuantizedFile) -> FileTasks:
        if baseline is None or vocabulary is None:
            return FileTasks(file, Verification(file), None, None, None)
        if isinstance(baseline, EmbeddingsTask):
            embedded = EmbeddingEvaluation(file, baseline, file.plan.label, baseline.model.device)
            return FileTasks(file, Verification(file), embedded, None, None)
        facts = tuple(vocabulary.differing), bool(vocabulary.left_out)
        if isinstance(baseline, LastBlock):
            runtime = UsedByLlamaCpp(file, *facts, baseline.device, streamed=True)
            streamed = StreamedEvaluation(file, baseline, file.plan.label, texts)
            return FileTasks(file, Verification(file), streamed, None, runtime)
        device = baseline.model.device
        cost = evaluating_cost(file.component, baseline.chunks, REPORT_BYTES * baseline.chunks.n_tokens, device)
        evaluation = Evaluation(file, baseline, file.plan.label, cost, device, texts, until)
        asked = in_llamacpp and file.plan.fork is None
        return FileTasks(
            file,
            Verification(file),
            evaluation,
            EvaluationInLlamaCpp.beside(evaluation, len(baseline.chunks), IN_A_RUN) if asked else None,
            UsedByLlamaCpp(file, *facts, device),
        )

    return RecipeTasks(imatrix, baseline, tuple(map(of, files)))
