"""The output folder, laid out as the Hub repository it becomes: files, imatrix, plot, recipe, card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hubquant.engine.task import Context
from hubquant.hub.eval_results import FOLDER as RESULTS
from hubquant.hub.eval_results import eval_results
from hubquant.pipeline.contents import CARD, CURVE, GRID, IMATRIX, PLOT, dataset_of_results
from hubquant.pipeline.drawing.page import drawn_grid
from hubquant.pipeline.folders import FolderTasks
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.page import Page, measurements_in, undescribed
from hubquant.pipeline.plan import Plan
from hubquant.pipeline.reports import file_reports
from hubquant.publish.measurements import FileMeasurement, not_replaced, with_earlier
from hubquant.publish.recommendation import MeasuredFile
from hubquant.publish.report import Report


def assemble(plan: Plan, context: Context, output: OutputFolder) -> Report:
    """Place what was made beside the files of earlier runs; a type that failed its gate is left out, old files too.

    Raises ``EvaluationError`` for a file that cannot be what its source is.
    """
    reports = file_reports(plan.tasks, context, plan.recipe.gates)
    projectors = [path for each in plan.work.projectors for path in each.paths]
    report = Report(plan.source.name, plan.output, reports, projectors=projectors)
    context.progress.step("card", str(plan.output / CARD))
    before = measurements_in(output)
    paths = {file.label: file.paths for file in plan.files}
    paths |= {each.plan.label: list(_files_of(each, context)) for each in plan.tasks.folders}
    measured = [file.measured for file in report.passed]
    placed = _place_files(plan, context, output, {file.type for file in measured})
    page = Page.of(plan, output.sha256(IMATRIX) if IMATRIX in placed else None, context)
    own = [
        FileMeasurement.of(file, {path: output.sha256(path) for path in paths[file.type]}, page.made_with_of(file.type))
        for file in measured
    ]
    earlier = not_replaced(before, plan.work.names)
    if plan.recipe.publish.prune:
        earlier = []
    replaced = {path for file in before if file not in earlier for path in file.paths}
    for name in (replaced | {path for of_file in paths.values() for path in of_file}) - placed:
        output.remove(name)
    files = with_earlier(own, earlier)
    contents = {path: text.encode() for path, text in _eval_results(plan, measured).items()}
    contents |= page.contents(files, undescribed(output, files), plan.recipe.publish.to)
    if shown := [each for each in plan.tasks.drawings if each.name in {file.type for file in measured}]:
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


def _files_of(tasks: FolderTasks, context: Context) -> dict[str, Path]:
    """By path in the repository."""
    root = context.read(tasks.folder)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {f"{tasks.plan.name}/{path.relative_to(root).as_posix()}": path for path in files}


def _place_files(plan: Plan, context: Context, output: OutputFolder, labels: set[str]) -> set[str]:
    store, wanted = context.store, dict[str, Path]()
    for each in plan.tasks.files:
        if each.plan.label in labels:
            file = each.kept(context).file
            wanted |= dict(zip(file.plan.paths, file.paths(store.path(file)), strict=True))
    for each in plan.tasks.projectors:
        wanted |= dict(zip(each.plan.paths, each.file.paths(store.path(each.file)), strict=True))
    for folder in plan.tasks.folders:
        if folder.plan.label in labels:
            wanted |= _files_of(folder, context)
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
