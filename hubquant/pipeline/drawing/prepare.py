"""From the recipe of a diffusion model to its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hubquant.backends.backend import ImatrixFacts, Importance
from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.gguf.task import QuantizedFile
from hubquant.checkpoint.weight_files import local_files
from hubquant.convert.diffusion.consumers import loading_note
from hubquant.convert.diffusion.conversion import layout_of
from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.drawing.folders import denoiser_folders, denoiser_plans
from hubquant.pipeline.drawing.held import LoadedPipeline, PulledPipeline
from hubquant.pipeline.drawing.imatrix import DrawnImatrix
from hubquant.pipeline.drawing.source import DrawnBySource
from hubquant.pipeline.given_imatrix import open_imatrix, use_notes, used_names
from hubquant.pipeline.tasks import RecipeTasks, Texts
from hubquant.pipeline.work import Prompts, Work, collects
from hubquant.recipe.pictures import Pictures
from hubquant.recipe.schema import Calibration, Evaluate, Recipe
from hubquant.sources.component import Component
from hubquant.sources.denoiser import DenoiserSource

COMPARED = (
    "files are made with the importance matrix and without it, and of each type the one stays that predicts better; "
    "without it files are smaller by what they say of it"
)
NO_PICTURES = "add --set imatrix.skip=true --set evaluate.skip=true"


def prepare_drawing(recipe: Recipe, component: Component, backend: GGUF, progress: Progress, device: Device) -> Work:
    """As :func:`hubquant.pipeline.prepare.prepare`, of a denoiser."""
    _check_settings(recipe)
    component = laid_out(component, recipe)
    plans = denoiser_plans(recipe, component, device)
    if collects(recipe) or not recipe.evaluate.skip:
        component.check_draws("calibrating or evaluating", NO_PICTURES)
    checked = backend.check(component, recipe.quantize.of_gguf, progress)
    prompts, notes = _prompts(recipe, component, progress)
    importance, n_entries = None, 0
    if recipe.imatrix.given:
        importance, n_entries = open_imatrix(recipe.imatrix, component)
    elif prompts.calibration is not None:
        task = DrawnImatrix(component, recipe.calibration.pictures, prompts.calibration, loaded(component, device))
        importance, n_entries = _to_be_collected(task, recipe)
    baseline = None
    if prompts.evaluation is not None:
        model = loaded(component, device)
        baseline = DrawnBySource(component, recipe.evaluate.pictures, prompts.evaluation, model)
    files = checked.tasks(importance)
    work = Work(recipe, component, checked, importance, Texts(None, None), RecipeTasks(None, baseline, ()), (), prompts)
    tasks = replace(work.making(files), folders=denoiser_folders(plans, recipe, baseline, device))
    return replace(
        work,
        tasks=tasks,
        notes=[
            *checked.notes,
            *notes,
            *use_notes(n_entries, len(importance.covered) if importance else 0, recipe.imatrix),
            *(note for file in files for note in (*file.plan.notes, _loading(component, file))),
            *(note for plan in plans for note in plan.notes),
            *([COMPARED] if any(each.plain for each in tasks.files) else []),
        ],
    )


def _check_settings(recipe: Recipe) -> None:
    """Raises ``UserError`` for settings that are those of language models: what somebody relies on may not be left out
    without a word."""
    quantize, imatrix, evaluate, gates = recipe.quantize, recipe.imatrix, recipe.evaluate, recipe.gates
    entries = [quantize.of(entry) for entry in quantize.types]
    asked = {
        "quantize.prune_layers": bool(quantize.prune_layers),
        "quantize.output_tensor": any(entry.output_tensor for entry in entries),
        "quantize.token_embedding": any(entry.token_embedding for entry in entries),
        "quantize.rounding": quantize.rounding != "nearest",
        "quantize.leave_output_tensor": quantize.leave_output_tensor,
        "imatrix.process_output": imatrix.process_output,
        "imatrix.offload": imatrix.offload != "auto",
        "imatrix.max_memory": bool(imatrix.max_memory),
        "calibration.sources": collects(recipe) and recipe.calibration.sources != Calibration().sources,
        "evaluate.sources": not evaluate.skip and evaluate.sources != Evaluate().sources,
        "evaluate.margin": evaluate.margin is not None,
        "evaluate.way": evaluate.way != "auto",
        "evaluate.engine": evaluate.engine == "both",
        "convert.no_mtp": recipe.convert.no_mtp,
        "convert.pre_tokenizer": recipe.convert.pre_tokenizer is not None,
        "gates.kld_mean": bool(gates.kld_mean),
        "gates.cosine_mean": bool(gates.cosine_mean),
    }
    if wrong := next((field for field, is_asked in asked.items() if is_asked), None):
        kind, (part, _, name) = "encoders" if wrong == "gates.cosine_mean" else "language models", wrong.partition(".")
        instead = {"gates": "use gates.prediction_error", "sources": f"use {part}.pictures.prompts"}
        hint = instead.get(part) or instead.get(name) or f"leave {wrong} out"
        raise UserError(f"{wrong} is for {kind}", why="the model draws pictures", hint=hint)


def laid_out(component: Component, recipe: Recipe) -> Component:
    """``component`` with the names that the recipe wants."""
    if recipe.publish.layout is None:
        return component
    source = _source(component)
    return Component.denoiser(replace(source, layout=layout_of(source.denoiser, recipe.publish.layout)))


def _loading(component: Component, file: QuantizedFile) -> str:
    """Which programs load it."""
    if file.plan.n_shards > 1:
        return (
            f"{file.plan.label} loads in no program known, as it is in {file.plan.n_shards} parts; "
            "a larger publish.shard_size makes it one"
        )
    source, types = _source(component), set(file.plan.types.values())
    family, layout = source.denoiser.family.name, source.file_layout
    return loading_note(file.plan.label, family, layout, types, component.shapes)


def loaded(component: Component, device: Device) -> LoadedPipeline:
    """The pipeline that a denoiser is of."""
    return LoadedPipeline(PulledPipeline.of(component.pulled), device=device)


def _source(component: Component) -> DenoiserSource:
    assert isinstance(component.source, DenoiserSource)
    return component.source


def _prompts(recipe: Recipe, component: Component, progress: Progress) -> tuple[Prompts, list[str]]:
    """What is drawn, and notes. Raises a ``UserError`` for what cannot be."""
    from hubquant.calibration.prompts import read_prompts

    asked = {
        "calibration": recipe.calibration.pictures if collects(recipe) else None,
        "evaluation": None if recipe.evaluate.skip else recipe.evaluate.pictures,
    }
    if not any(asked.values()):
        return Prompts(None, None), []
    with progress.doing("reading prompts"):
        found = {name: read_prompts(each) if each else None for name, each in asked.items()}
    notes: list[str] = []
    for name, settings in asked.items():
        if settings is not None:
            notes += check_prompts(component, settings, found[name] or ())
    shared = set(found["calibration"] or ()) & set(found["evaluation"] or ())
    if shared:
        notes.append(
            f"{len(shared)} prompts of the evaluation are also those of the calibration: "
            "files look better than they are"
        )
    return Prompts(found["calibration"], found["evaluation"]), list(dict.fromkeys(notes))


def check_prompts(component: Component, settings: Pictures, prompts: Sequence[str]) -> Iterator[str]:
    """Notes on what will be drawn. Raises a ``UserError`` for what cannot be."""
    from hubquant.models.diffusion import check_pictures, check_weight_files, empty_pipeline

    source = _source(component)
    check_weight_files(source.folder, source.remote.files if source.remote else local_files(source.folder))
    yield from check_pictures(empty_pipeline(source.folder), prompts, settings)


def _to_be_collected(task: DrawnImatrix, recipe: Recipe) -> tuple[Importance, int]:
    """What files will record of the matrix, and how many of its entries are theirs."""
    names = tuple(task.component.conversion.taps)
    covered, pictures = used_names(names, recipe.imatrix), task.settings
    dataset = pictures.prompts[0].display_name
    facts = ImatrixFacts(IMATRIX, dataset, len(covered), pictures.count, task.fingerprint)
    settings = recipe.imatrix
    return Importance(task, facts, covered, settings.include_weights, settings.exclude_weights), len(names)
