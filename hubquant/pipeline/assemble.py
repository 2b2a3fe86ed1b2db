"""The output folder, laid out as the Hub repository it becomes: files, imatrix, plot, recipe, card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hubquant.engine.task import Context
from hubquant.evaluate import Divergence, Similarity, check_plausible
from hubquant.evaluate.pictures import Fidelity, check_faithful
from hubquant.evaluate.similarity import check_similar
from hubquant.hub.eval_results import FOLDER as RESULTS
from hubquant.hub.eval_results import eval_results
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.pipeline.contents import CARD, CURVE, GRID, IMATRIX, PLOT, dataset_of_results
from hubquant.pipeline.drawing.measured import Chosen, DrawingEvaluation
from hubquant.pipeline.drawing.page import drawn_grid, programs_of
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.page import Page, measurements_in, undescribed
from hubquant.pipeline.plan import Plan
from hubquant.pipeline.tasks import FileTasks
from hubquant.publish.measurements import FileMeasurement, not_replaced, with_earlier
from hubquant.publish.recommendation import MeasuredFile
from hubquant.publish.report import FileReport, Report
from hubquant.recipe.schema import Gates


def assemble(plan: Plan, context: Context, output: OutputFolder) -> Report:
    """Place what was made beside the files of earlier runs; a type that failed its gate is left out, old files too.

    Raises ``EvaluationError`` for a file that cannot be what its source is.
    """
    reports = [
        _report(each, context, plan.recipe.gates) for each in sorted(plan.tasks.files, key=lambda each: -each.plan.size)
    ]
    report = Report(plan.source.name, plan.output, reports)
    context.progress.step("card", str(plan.output / CARD))
    before = measurements_in(output)
    paths = {file.label: file.paths for file in plan.files}
    measured = [file.measured for file in report.passed]
    placed = _place_files(plan, context, output, {file.type for file in measured})
    page = Page.of(plan, output.sha256(IMATRIX) if IMATRIX in placed else None, context)
    own = [
        FileMeasurement.of(file, {path: output.sha256(path) for path in paths[file.type]}, page.made_with_of(file.type))
        for file in measured
    ]
    earlier = not_replaced(before, {Path(file.name).stem for file in plan.files})
    if plan.recipe.publish.prune:
        earlier = []
    replaced = {path for file in before if file not in earlier for path in file.paths}
    for name in (replaced | {path for of_file in paths.values() for path in of_file}) - placed:
        output.remove(name)
    files = with_earlier(own, earlier)
    contents = {path: text.encode() for path, text in _eval_results(plan, measured).items()}
    contents |= page.contents(files, undescribed(output, files), plan.recipe.publish.to)
    drawn = [each.evaluation for each in plan.tasks.files if isinstance(each.evaluation, DrawingEvaluation)]
    if shown := [each for each in drawn if each.name in {file.type for file in measured}]:
        contents[GRID] = drawn_grid(shown, context)
    for name in _stale(output, earlier) - contents.keys() - placed:
        output.remove(name)
    page.save(output)
    for name, content in contents.items():
        if kept := output.write(name, content):
            context.progress.note(f"{name} may have been edited by hand: what it was is kept as {kept}")
    return report


def _stale(output: OutputFolder, earlier: Sequence[FileMeasurement]) -> set[str]:
    """What belongs to a run and not to the files that stay."""
    if not earlier:
        return {name for name in output if name == IMATRIX or not name.endswith(".gguf")}
    return {name for name in output if name in (PLOT, GRID, CURVE) or name.startswith(f"{RESULTS}/")} - {
        name for name in output for file in earlier if name.endswith(f"_{file.type}.yaml")
    }


def _report(tasks: FileTasks, context: Context, gates: Gates) -> FileReport:
    found: object = context.read(tasks.evaluation) if tasks.evaluation else None
    with_imatrix = found.with_imatrix if isinstance(found, Chosen) else None
    found, tasks = found.fidelity if isinstance(found, Chosen) else found, tasks.kept(context)
    plan = tasks.plan
    if not tasks.file.settings.prune_layers:
        _check(Path(plan.name).name, plan.types.values(), found)
    measured = MeasuredFile(
        file=plan.paths[0],
        type=plan.label,
        size=plan.size,
        bpw=plan.bpw,
        divergence=found if isinstance(found, Divergence) else None,
        runtime=_runtime(tasks, context),
        fork=plan.fork,
        in_llamacpp=context.read(tasks.in_llamacpp) if tasks.in_llamacpp else None,
        similarity=found if isinstance(found, Similarity) else None,
        fidelity=found if isinstance(found, Fidelity) else None,
        with_imatrix=with_imatrix,
        loaded_by=programs_of(tasks.file),
        in_diffusers=context.read(tasks.in_diffusers) if tasks.in_diffusers else None,
    )
    bounds = {Similarity: gates.cosine_mean, Fidelity: gates.prediction_error}.get(type(found), gates.kld_mean)
    return FileReport(measured, worst_tensor=context.read(tasks.verification), gate=bounds.get(plan.label))


def _runtime(tasks: FileTasks, context: Context) -> RuntimeCheck | None:
    if tasks.file.component.denoises:
        return None
    why_not = "nothing was evaluated" if tasks.evaluation is None else "encoders are not run in it here"
    return context.read(tasks.runtime) if tasks.runtime else RuntimeCheck(skipped=why_not)


def _check(name: str, types: Iterable[str], found: object) -> None:
    if isinstance(found, Divergence):
        check_plausible(name, types, found)
    elif isinstance(found, Similarity):
        check_similar(name, types, found)
    elif isinstance(found, Fidelity):
        check_faithful(name, types, found)


def _place_files(plan: Plan, context: Context, output: OutputFolder, labels: set[str]) -> set[str]:
    store, wanted = context.store, dict[str, Path]()
    for each in plan.tasks.files:
        if each.plan.label in labels:
            file = each.kept(context).file
            wanted |= dict(zip(file.plan.paths, file.paths(store.path(file)), strict=True))
    if plan.tasks.imatrix is not None:
        wanted[IMATRIX] = store.path(plan.tasks.imatrix) / IMATRIX
    for name, source in wanted.items():
        output.place(source, name)
    return set(wanted)


def _eval_results(plan: Plan, files: Sequence[MeasuredFile]) -> dict[str, str]:
    dataset = dataset_of_results(plan.recipe)
    if dataset is None or not plan.results:
        return {}
    measured = {
        file.type: {"kld_mean": file.divergence.kld.mean, "perplexity": file.divergence.ppl.ppl}
        for file in files
        if file.divergence
    }
    measurements = {type: {name: found[name] for name in sorted(plan.results)} for type, found in measured.items()}
    return eval_results(dataset.dataset, measurements, dataset_revision=dataset.revision)
