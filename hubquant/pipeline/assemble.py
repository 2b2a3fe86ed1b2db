"""The output folder, laid out as the Hub repository it becomes: files, imatrix, plot, recipe, card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.disk import writing
from hubquant.hub.eval_results import FOLDER as RESULTS
from hubquant.hub.eval_results import eval_results
from hubquant.imatrix import save
from hubquant.pipeline.contents import CARD, IMATRIX, PLOT, dataset_of_results
from hubquant.pipeline.given_imatrix import GivenImatrix
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.page import Page, measurements_in, undescribed
from hubquant.pipeline.plan import Plan
from hubquant.pipeline.work import Work
from hubquant.publish.measurements import FileMeasurement, not_replaced, with_earlier
from hubquant.publish.recommendation import MeasuredFile
from hubquant.publish.report import FileReport, Report

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, TensorCheck
    from hubquant.llamacpp.runtime import RuntimeCheck


def assemble(
    work: Work,
    output: OutputFolder,
    divergences: Mapping[str, Divergence],
    verified: Mapping[str, TensorCheck],
    runtimes: Mapping[str, RuntimeCheck],
) -> Report:
    """Place what was made beside the files of earlier runs; a type that failed its gate is left out, old files too."""
    plan = work.plan
    bounds = plan.recipe.gates.kld_mean
    reports = [
        FileReport(
            MeasuredFile(
                file.paths[0],
                file.ftype,
                file.size,
                file.bpw,
                divergences.get(file.ftype),
                runtimes[file.ftype],
                file.fork,
            ),
            worst_tensor=verified[file.ftype],
            gate=bounds.get(file.ftype),
        )
        for file in sorted(plan.files, key=lambda file: -file.size)
    ]
    report = Report(plan.source.name, plan.output, reports)
    work.progress.step("card", str(plan.output / CARD))
    before = measurements_in(output)
    paths = {file.ftype: file.paths for file in plan.files}
    measured = [file.measured for file in report.passed]
    placed = _place_files(work, output, {file.type for file in measured})
    page = Page.of(plan, output.sha256(IMATRIX) if IMATRIX in placed else None)
    own = [
        FileMeasurement.of(file, {path: output.sha256(path) for path in paths[file.type]}, page.made_with)
        for file in measured
    ]
    earlier = not_replaced(before, {Path(file.name).stem for file in plan.files})
    replaced = {path for file in before if file not in earlier for path in file.paths}
    for name in (replaced | {path for of_type in paths.values() for path in of_type}) - placed:
        output.remove(name)
    files = with_earlier(own, earlier)
    contents = {path: text.encode() for path, text in _eval_results(plan, measured).items()}
    contents |= page.contents(files, undescribed(output, files), plan.recipe.publish.to)
    for name in _stale(output, earlier) - contents.keys() - placed:
        output.remove(name)
    page.save(output)
    for name, content in contents.items():
        if kept := output.write(name, content):
            work.progress.note(f"{name} may have been edited by hand: what it was is kept as {kept}")
    return report


def _stale(output: OutputFolder, earlier: Sequence[FileMeasurement]) -> set[str]:
    """What belongs to a run and not to the files that stay."""
    if not earlier:
        return {name for name in output if name == IMATRIX or not name.endswith(".gguf")}
    return {name for name in output if name == PLOT or name.startswith(f"{RESULTS}/")} - {
        name for name in output for file in earlier if name.endswith(f"_{file.type}.yaml")
    }


def _place_files(work: Work, output: OutputFolder, ftypes: set[str]) -> set[str]:
    plan = work.plan
    wanted: dict[str, Path] = {}
    for file in plan.files:
        if file.ftype in ftypes:
            wanted |= dict(zip(file.paths, work.file_paths(file), strict=True))
    if plan.artifacts.imatrix is not None:
        wanted[IMATRIX] = work.workspace.path(plan.artifacts.imatrix) / IMATRIX
    elif plan.imatrix is not None:
        wanted[IMATRIX] = _own_copy(work, plan.imatrix)
    for name, source in wanted.items():
        output.place(source, name)
    return set(wanted)


def _own_copy(work: Work, given: GivenImatrix) -> Path:
    """The given matrix as an artifact: what is placed in the output is never the user's own file."""
    if work.workspace.damage(given.artifact):
        target = work.workspace.open_building(given.artifact) / IMATRIX
        if given.path is None:
            save(given.matrix, target)
        else:
            with writing(target):
                shutil.copyfile(given.path, target)
        work.workspace.complete(given.artifact)
    return work.workspace.path(given.artifact) / IMATRIX


def _eval_results(plan: Plan, files: Sequence[MeasuredFile]) -> dict[str, str]:
    dataset = dataset_of_results(plan.recipe)
    if dataset is None:
        return {}
    measurements = {
        file.type: {"kld_mean": file.divergence.kld.mean, "perplexity": file.divergence.ppl.ppl}
        for file in files
        if file.divergence
    }
    return eval_results(dataset.dataset, measurements, dataset_revision=dataset.revision)
