"""The tasks of a recipe, and how they hang together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.files import FilePlan
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.devices import Device
from hubquant.engine.task import Context, Task
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.costs import REPORT_BYTES, evaluating_cost
from hubquant.pipeline.drawing.in_diffusers import UsedByDiffusers
from hubquant.pipeline.drawing.measured import DrawingEvaluation
from hubquant.pipeline.drawing.source import DrawnBySource
from hubquant.pipeline.embeddings import EmbeddingEvaluation, EmbeddingsTask
from hubquant.pipeline.evaluate import Evaluation, FileDivergence, UsedByLlamaCpp
from hubquant.pipeline.folders import FolderTasks, SpeedInLlamaCpp
from hubquant.pipeline.gate import EVALUATION, HELD_OUT, BothWays
from hubquant.pipeline.in_llamacpp import IN_A_RUN, EvaluationInLlamaCpp
from hubquant.pipeline.streamed import LastBlock, StreamedEvaluation
from hubquant.pipeline.verify import Verification
from hubquant.pipeline.without_code import RunInLlamaCpp
from hubquant.publish.fed_back import is_better

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
    made without the importance matrix, or without error feedback, where both are made to be compared, the latter
    ``both_ways``; ``in_diffusers`` tells of the better one, and is None where diffusers does not load it."""

    file: QuantizedFile
    verification: Verification
    evaluation: Evaluation | StreamedEvaluation | EmbeddingEvaluation | DrawingEvaluation | None
    in_llamacpp: EvaluationInLlamaCpp | None
    runtime: UsedByLlamaCpp | None
    plain: FileTasks | None = None
    both_ways: tuple[BothWays, ...] = ()
    in_diffusers: UsedByDiffusers | None = None

    def __iter__(self) -> Iterator[Task[Any]]:
        """Of this file, not of that which it is compared with."""
        found = (self.file, self.verification, self.evaluation, self.in_llamacpp, self.runtime, self.in_diffusers)
        return (task for task in found if task is not None)

    @property
    def compared(self) -> list[Task[Any]]:
        """What tells which of both files stays."""
        return [task for both in self.both_ways for task in both]

    def shares(self, context: Context) -> dict[str, float]:
        """Of the divergence without error feedback what is left with it, by text; empty where that is not measured."""
        return {name: share for both in self.both_ways for name, share in both.shares(context).items()}

    def kept(self, context: Context) -> FileTasks:
        """These, or of two files that were compared those of the better one, with what was measured of it."""
        if self.plain is not None and isinstance(self.evaluation, DrawingEvaluation):
            found = context.read(self.evaluation)
            if found.with_imatrix is False:
                return replace(self.plain, evaluation=self.evaluation, in_diffusers=self.in_diffusers)
        if self.plain is not None and not is_better(self.shares(context)):
            return self.plain
        return self

    @property
    def plan(self) -> FilePlan:
        return self.file.plan


@dataclass(frozen=True)
class RecipeTasks:
    """``imatrix`` is None where none is used, ``baseline`` where nothing is evaluated; ``folders`` are those of
    libraries, and ``speeds`` those of files beside them; ``sensitivity`` is what the types of files of a given size are
    chosen by, None where there are none. ``held_out`` is as ``baseline``, on calibration text: None where no files are
    made both with error feedback and without. ``projectors`` are what a multimodal model sees or hears with."""

    imatrix: Task[ImportanceMatrix] | None
    baseline: BaselineTask | LastBlock | EmbeddingsTask | DrawnBySource | None
    files: tuple[FileTasks, ...]
    folders: tuple[FolderTasks, ...] = ()
    speeds: tuple[SpeedInLlamaCpp, ...] = ()
    sensitivity: Task[Sensitivities] | None = None
    held_out: BaselineTask | LastBlock | None = None
    projectors: tuple[FileTasks, ...] = ()

    @property
    def goals(self) -> list[Task[Any]]:
        """What the output is made of; baselines are needed only where an evaluation is."""
        return [task for task in self if task not in (self.baseline, self.held_out)]

    def of_those_kept(self, context: Context) -> list[Task[Any]]:
        """What is told of the files that stay, once it is known which these are."""
        return [task for each in self.files for task in each.kept(context)]

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
            self.held_out,
            *(each.file for each in self._all),
            *(each.verification for each in self._all),
            *(
                task
                for each in self.files
                for task in (each.evaluation, *each.compared, each.in_llamacpp, each.runtime, each.in_diffusers)
            ),
            *self.speeds,
            *(task for each in self.folders for task in (each.folder, each.reloaded, each.evaluation)),
            *(task for each in self.projectors for task in each),
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
        return FileTasks(file, Verification(file), evaluation, None, None, other, in_diffusers=checked)

    return RecipeTasks(imatrix, baseline, tuple(map(of, files, plain)))


@dataclass(frozen=True)
class Texts:
    """What is run through the model: None where it is not calibrated, or not evaluated."""

    calibration: Chunks | None
    evaluation: Chunks | None


def recipe_tasks(
    files: Sequence[QuantizedFile],
    plain: Sequence[QuantizedFile | None],
    imatrix: Task[ImportanceMatrix] | None,
    baseline: BaselineTask | LastBlock | EmbeddingsTask | None,
    held_out: BaselineTask | LastBlock | None,
    vocabulary: VocabularyCheck | None,
    texts: tuple[str, ...] = (),
    until: Precision | None = None,
    *,
    in_llamacpp: bool = False,
) -> RecipeTasks:
    """``vocabulary`` is known where there is a ``baseline``, on whose device the files are measured too, and
    ``in_llamacpp`` besides unless they are streamed; ``texts`` name the text of each of its chunks, which are
    measured ``until`` a precision is reached unless they are streamed. ``plain`` has of each file that without error
    feedback, None where none is compared with it by what both have on the text of ``held_out`` too."""

    def of(file: QuantizedFile, plain: QuantizedFile | None) -> FileTasks:
        found = alone(file)
        if plain is None or held_out is None or not isinstance(found.evaluation, FileDivergence):
            return found
        other = alone(plain)
        assert isinstance(other.evaluation, FileDivergence)
        both_ways = (
            BothWays(EVALUATION, found.evaluation, other.evaluation),
            BothWays(HELD_OUT, divergence(file, held_out), divergence(plain, held_out)),
        )
        return replace(found, plain=other, both_ways=both_ways)

    def alone(file: QuantizedFile) -> FileTasks:
        if baseline is None or vocabulary is None:
            return FileTasks(file, Verification(file), None, None, None)
        if isinstance(baseline, EmbeddingsTask):
            embedded = EmbeddingEvaluation(file, baseline, file.plan.label, baseline.model.device)
            return FileTasks(file, Verification(file), embedded, None, None)
        if isinstance(baseline, BaselineTask) and isinstance(baseline.model, RunInLlamaCpp):
            cost = baseline.model.cost(baseline.chunks, REPORT_BYTES * baseline.chunks.n_tokens)
            there = Evaluation(file, baseline, file.plan.label, cost, "cpu", texts, until)
            n_chunks = len(baseline.chunks)
            return FileTasks(file, Verification(file), EvaluationInLlamaCpp.beside(there, n_chunks), None, None)
        evaluation, in_it = divergence(file, baseline, texts, until), None
        if in_llamacpp and file.plan.fork is None and isinstance(evaluation, Evaluation):
            in_it = EvaluationInLlamaCpp.beside(evaluation, len(baseline.chunks), IN_A_RUN)
        return FileTasks(
            file,
            Verification(file),
            evaluation,
            in_it,
            UsedByLlamaCpp(
                file,
                tuple(vocabulary.differing),
                bool(vocabulary.left_out),
                _device(baseline),
                streamed=isinstance(baseline, LastBlock),
            ),
        )

    return RecipeTasks(imatrix, baseline, tuple(map(of, files, plain)), held_out=held_out)


def divergence(
    file: QuantizedFile,
    baseline: BaselineTask | LastBlock,
    texts: tuple[str, ...] = (),
    until: Precision | None = None,
) -> Evaluation | StreamedEvaluation:
    """Of ``file``, on the text of ``baseline`` and in its way."""
    if isinstance(baseline, LastBlock):
        return StreamedEvaluation(file, baseline, file.plan.label, texts)
    device = _device(baseline)
    cost = evaluating_cost(file.component, baseline.chunks, REPORT_BYTES * baseline.chunks.n_tokens, device)
    return Evaluation(file, baseline, file.plan.label, cost, device, texts, until)


def _device(baseline: BaselineTask | LastBlock) -> Device:
    return baseline.device if isinstance(baseline, LastBlock) else baseline.model.device
