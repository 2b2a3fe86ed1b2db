"""The output folder, laid out as the Hub repository it becomes: files, imatrix, plot, recipe, card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant import __version__
from hubquant.disk import writing
from hubquant.engine.contents import CARD, IMATRIX, PLOT, RECIPE, dataset_of_results
from hubquant.engine.given_imatrix import GivenImatrix
from hubquant.engine.output_folder import OutputFolder
from hubquant.engine.plan import Plan
from hubquant.engine.report import FileReport, Report
from hubquant.engine.steps import Work
from hubquant.hub.eval_results import eval_results
from hubquant.publish.card import Card, CardText, render
from hubquant.publish.plot import plot
from hubquant.publish.recommendation import MeasuredFile
from hubquant.recipe import dump_recipe
from hubquant.recipe.schema import HUB_PREFIX, Publish, Recipe, TextSource

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, RuntimeCheck, TensorCheck


def assemble(
    work: Work,
    output: OutputFolder,
    divergences: Mapping[str, Divergence],
    verified: Mapping[str, TensorCheck],
    runtimes: Mapping[str, RuntimeCheck],
) -> Report:
    """Place what was made; a file that failed its gate is left out, and so is one of an earlier run."""
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
    measured = [file.measured for file in report.passed]
    work.progress.step("card", str(plan.output / CARD))
    placed = _place_files(work, output, {file.type for file in measured})
    contents = {RECIPE: dump_recipe(_reproducible(plan)).encode()}
    if divergences and measured:
        contents[PLOT] = plot(measured, f"{plan.source.name}: size and divergence")
    contents |= {path: text.encode() for path, text in _eval_results(plan, measured).items()}
    contents[CARD] = render(_card(plan, report)).encode()
    for name in set(output) - placed - contents.keys():
        output.remove(name)
    for name, content in contents.items():
        if kept := output.write(name, content):
            work.progress.note(f"{name} may have been edited by hand: what it was is kept as {kept}")
    return report


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
            given.matrix.save(target)
        else:
            with writing(target):
                shutil.copyfile(given.path, target)
        work.workspace.complete(given.artifact)
    return work.workspace.path(given.artifact) / IMATRIX


def _reproducible(plan: Plan) -> Recipe:
    """The recipe pinned to the commit that was used, without the place it was published to. Importance matrices of this
    machine are named by the copy that is published."""
    recipe, to = plan.recipe, plan.recipe.publish.to
    recipe = recipe.model_copy(update={"publish": Publish(shard_size=recipe.publish.shard_size)})
    if to and not all(reference.startswith(HUB_PREFIX) for reference in recipe.imatrix.given):
        published = {"file": f"{HUB_PREFIX}{to}/{IMATRIX}", "files": ()}
        recipe = recipe.model_copy(update={"imatrix": recipe.imatrix.model_copy(update=published)})
    if plan.source.id is None:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": plan.source.revision})})


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


def _card(plan: Plan, report: Report) -> Card:
    recipe, source = plan.recipe, plan.source
    calibration, evaluation = plan.calibration, plan.evaluation
    files = [file.measured for file in report.passed]
    scored = max((file.divergence.n_tokens for file in files if file.divergence), default=0)
    return Card(
        model_name=source.name,
        files=tuple(files),
        reproduce=_one_line(recipe),
        version=__version__,
        model_id=source.id,
        revision=source.revision if source.id else None,
        repo_id=recipe.publish.to,
        source=source.card,
        imatrix=IMATRIX if plan.facts else None,
        calibration=tuple(map(_card_text, recipe.calibration.sources)) if calibration else (),
        tokens_calibrated=calibration.n_tokens if calibration else 0,
        evaluation=tuple(map(_card_text, recipe.evaluate.sources)) if evaluation else (),
        tokens_scored=scored,
        plot=PLOT if scored else None,
        verified=True,
    )


def _card_text(source: TextSource) -> CardText:
    detail = ", ".join(part for part in (source.config, source.split) if part) if source.dataset else ""
    return CardText(source.display_name, is_dataset=source.dataset is not None, detail=detail)


def _one_line(recipe: Recipe) -> str:
    return f"hubquant run hub:{recipe.publish.to}" if recipe.publish.to else f"hubquant run {RECIPE}"
