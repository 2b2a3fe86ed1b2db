"""From a recipe to its tasks, and every mistake that can be known now.

Only metadata is read: config and tokenizer files, safetensors headers, the sizes of things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.backends.backend import ImatrixFacts, Importance
from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.gguf.files import fork_note
from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.observe import collected_names
from hubquant.observe.collector import BATCH_TOKENS
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.budgets import Chosen, check_decides, check_measurable, has_budgets, with_types
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.drawing.prepare import prepare_drawing
from hubquant.pipeline.embeddings import EmbeddingsTask
from hubquant.pipeline.encoders import check_collects, check_measured, context_notes, pooling_note, tokenized
from hubquant.pipeline.fed_back import FedBackSensitivity
from hubquant.pipeline.folders import calibrates_folders, folder_tasks, speed_tasks
from hubquant.pipeline.gate import COMPARED, GATE_CHUNKS
from hubquant.pipeline.given_imatrix import open_imatrix, use_notes, used_names
from hubquant.pipeline.held import LoadedModel, Offload
from hubquant.pipeline.importance import CollectedImatrix
from hubquant.pipeline.moments import StreamedMoments
from hubquant.pipeline.offload import choose_offload, choose_way
from hubquant.pipeline.sensitivity import SensitivityTask, measured_before
from hubquant.pipeline.streamed import LastBlock
from hubquant.pipeline.tasks import RecipeTasks, Texts
from hubquant.pipeline.tuning import TUNED, tuned_batch
from hubquant.pipeline.without_code import (
    NOTE,
    ImatrixInLlamaCpp,
    RunInLlamaCpp,
    check_predicts_next,
    check_ways,
    floats_of,
    how_to_run,
    runs_in_llamacpp,
)
from hubquant.pipeline.work import Work, collects, text_names
from hubquant.recipe.schema import Imatrix, Recipe
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks

UNDECIDED = "the types of files of a given size are chosen when the tensors were measured: those shown have its size"
COMPARED_CHARACTERS = 4_000_000  # of each source; more than a calibration run reads


def prepare(
    recipe: Recipe,
    component: Component,
    backend: GGUF,
    store: Store,
    progress: Progress,
    device: Device = "auto",
    *,
    decides: bool = False,
    fresh: bool = False,
) -> Work:
    """The recipe's ``component`` in the formats of ``backend``; models run on ``device``. Files of a given size are for
    whom ``decides`` again when the work is still undecided, as it is with ``fresh``. Raises a ``UserError`` for
    everything that would fail later and can be known now."""
    if budgets := has_budgets(recipe.quantize):
        check_measurable(component)
        check_decides(decides)
    if component.denoises:
        return prepare_drawing(recipe, component, backend, progress, device)
    hint = "add --set imatrix.skip=true --set evaluate.skip=true"
    if alone := runs_in_llamacpp(component):
        check_ways(recipe.imatrix.offload, recipe.evaluate.way)
    if collects(recipe):
        if not alone:
            component.check_runs("calibrating or evaluating", how_to_run(component) + hint)
        check_collects(component, recipe.imatrix)
    if not recipe.evaluate.skip:
        if not alone or recipe.evaluate.engine == "torch":
            component.check_runs("evaluating", how_to_run(component) + hint)
        check_predicts_next(component)
        check_measured(component, recipe, None)
    if recipe.quantize.rounding == "feedback" and recipe.quantize.of_gguf.types:
        component.check_runs("rounding with error feedback", "leave quantize.rounding at nearest")
    checked = backend.check(component, recipe.quantize.of_gguf, progress)
    importance, n_entries, tuned = None, 0, None
    offload: Offload = "none"
    if recipe.imatrix.given:
        importance, n_entries = open_imatrix(recipe.imatrix, component)
    texts = _tokenize(recipe, component, progress)
    floats = floats_of(component, backend, progress) if alone and (texts.calibration or texts.evaluation) else None
    if floats is not None and texts.calibration is not None and collects(recipe):
        there = ImatrixInLlamaCpp(component, texts.calibration, recipe.imatrix, offload, file=floats)
        importance, n_entries = _to_be_collected(there, recipe.imatrix)
    elif texts.calibration is not None and collects(recipe):
        offload = choose_offload(recipe.imatrix, component, device)
        if offload == "none":
            tuned = tuned_batch(component, texts.calibration.chunk_size, device, store)
        task = CollectedImatrix(
            component, texts.calibration, recipe.imatrix, offload, device=device, tuned=tuned or BATCH_TOKENS
        )
        importance, n_entries = _to_be_collected(task, recipe.imatrix)
    model = LoadedModel.by(component.pulled, recipe.imatrix, offload, device)
    baseline: BaselineTask | LastBlock | EmbeddingsTask | None = None
    if texts.evaluation is not None and component.embeds:
        check_measured(component, recipe, texts.evaluation)
        baseline = EmbeddingsTask(component, texts.evaluation, model)
    elif texts.evaluation is not None and floats is not None:
        n_ctx = texts.evaluation.chunk_size
        baseline = BaselineTask(component, texts.evaluation, RunInLlamaCpp(floats, n_ctx))
    elif texts.evaluation is not None:
        baseline = _baseline(component, texts.evaluation, recipe, model)
    moments = held_out = None
    if recipe.quantize.rounding == "feedback" and texts.calibration is not None:
        moments = StreamedMoments.of(component, texts.calibration, device)
        if baseline is not None:
            held_out = _baseline(component, moments.held_out.spread(GATE_CHUNKS), recipe, model)
    sensitivity: SensitivityTask | FedBackSensitivity | None = None
    chosen: Sequence[Chosen] = ()
    undecided = False
    if budgets and texts.calibration is not None:
        sensitivity = SensitivityTask.of(component, texts.calibration, importance, recipe.quantize.mode, device)
        sensitivity = FedBackSensitivity(sensitivity, moments) if moments else sensitivity
        found = None if fresh else measured_before(sensitivity, store)
        undecided = found is None
        recipe, chosen = with_types(recipe, checked, importance, found)
        checked = replace(checked, settings=recipe.quantize.of_gguf)
    files = checked.tasks(importance, moments)
    tasks = RecipeTasks(None, baseline, (), held_out=held_out)
    work = Work(recipe, component, checked, importance, texts, tasks, ())
    names = text_names(recipe.evaluate.sources, texts.evaluation)
    folders = folder_tasks(recipe, component, texts.calibration, baseline, names, device)
    return replace(
        work,
        tasks=replace(
            work.making(files),
            folders=folders,
            speeds=speed_tasks(recipe, files, component),
            sensitivity=sensitivity,
        ),
        chosen=chosen,
        undecided=undecided,
        notes=[
            *checked.notes,
            *context_notes(component, *_chunk_sizes(recipe, texts)),
            *(pooling_note(component) if texts.evaluation else []),
            *([TUNED.format(tuned)] if tuned else []),
            *([NOTE] if floats is not None else []),
            *work.drafting_notes,
            *use_notes(n_entries, len(importance.covered) if importance else 0, recipe.imatrix),
            *(note for f in files for note in (*f.plan.notes, *fork_note(f.plan.label, f.plan.types))),
            *([COMPARED] if held_out is not None else []),
            *([UNDECIDED] if undecided else []),
            *(note for folder in folders for note in folder.plan.notes),
            *(_check_overlap(recipe) if texts.calibration and texts.evaluation else []),
        ],
    )


def _baseline(component: Component, chunks: Chunks, recipe: Recipe, model: LoadedModel) -> BaselineTask | LastBlock:
    """What files are compared with on ``chunks``: by the ``model`` as a whole, or streamed."""
    if choose_way(recipe.evaluate.way, component, model.device) == "streamed":
        return LastBlock(component, chunks, model.device)
    return BaselineTask(component, chunks, model)


def _tokenize(recipe: Recipe, component: Component, progress: Progress) -> Texts:
    """The calibration and the evaluation tokens; text that cannot be used raises."""
    first, second = recipe.calibration, recipe.evaluate
    rounds = recipe.quantize.rounding == "feedback" and recipe.quantize.of_gguf.types
    budgets = has_budgets(recipe.quantize)
    calibrates = collects(recipe) or rounds or budgets or calibrates_folders(recipe.quantize.in_libraries)
    if not calibrates and second.skip:
        return Texts(None, None)
    with progress.doing("tokenizing"):
        return Texts(
            tokenized(component, first.sources, first.chunk_size, first.chunks, first.seed) if calibrates else None,
            None if second.skip else tokenized(component, second.sources, second.chunk_size, second.chunks),
        )


def _chunk_sizes(recipe: Recipe, texts: Texts) -> list[int]:
    """That are asked for, of the texts that there are."""
    asked = ((texts.calibration, recipe.calibration.chunk_size), (texts.evaluation, recipe.evaluate.chunk_size))
    return [size for chunks, size in asked if chunks is not None]


def _to_be_collected(task: CollectedImatrix, settings: Imatrix) -> tuple[Importance, int]:
    """What files will record of the matrix, and how many entries it will have."""
    names = collected_names(task.component.conversion.taps, settings.process_output)
    covered, chunks = used_names(names, settings), task.chunks
    facts = ImatrixFacts(IMATRIX, chunks.datasets[0], len(covered), len(chunks), chunks.fingerprint)
    return Importance(task, facts, covered, settings.include_weights, settings.exclude_weights), len(names)


def _check_overlap(recipe: Recipe) -> list[str]:
    """A note when the model is evaluated on text that it was calibrated on."""
    from hubquant.calibration import overlap, read_text

    seed = recipe.calibration.seed
    calibration = [read_text(source, seed, COMPARED_CHARACTERS) for source in recipe.calibration.sources]
    evaluation = [read_text(source, 0, COMPARED_CHARACTERS) for source in recipe.evaluate.sources]
    found = overlap(calibration, "\n".join(evaluation))
    if found.shared == 0:
        return []
    return [
        f"{found.share:.0%} of the evaluation text's lines also stand in the calibration text: "
        "the divergence looks better than it is"
    ]
