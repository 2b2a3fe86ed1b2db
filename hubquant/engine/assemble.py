"""The output folder, laid out as the Hub repository it becomes: files, imatrix, plot, recipe, card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant import __version__
from hubquant.engine.plan import Plan
from hubquant.engine.report import FileReport, Report
from hubquant.engine.steps import IMATRIX, Work
from hubquant.engine.workspace import place, write_text, writing
from hubquant.hub.card import Card, CardRow, CardText, render
from hubquant.recipe import dump_recipe
from hubquant.recipe.schema import Publish, Recipe, TextSource

if TYPE_CHECKING:
    from hubquant.evaluate import Divergence, TensorCheck

PLOT = "plot.png"
CARD = "README.md"
RECIPE = "recipe.yaml"
QUICKSTART = "hubquant run quickstart"


def assemble(
    work: Work,
    divergences: Mapping[str, Divergence],
    verified: Mapping[str, TensorCheck],
    runtimes: Mapping[str, str],
) -> Report:
    """Place what was made; a file that failed its gate is left out, and so is one of an earlier run."""
    plan = work.plan
    bounds = plan.recipe.gates.kld_mean
    reports = [
        FileReport(
            path=file.paths[0],
            ftype=file.ftype,
            size=file.size,
            bpw=file.bpw,
            divergence=divergences.get(file.ftype),
            worst_tensor=verified[file.ftype],
            runtime=runtimes[file.ftype],
            gate=bounds.get(file.ftype),
        )
        for file in plan.files
    ]
    report = Report(plan.source.name, plan.output, sorted(reports, key=lambda file: -file.size))
    published = [file for file in report.files if file.passed]
    work.progress.step("card", str(plan.output / CARD))
    _place_files(work, {file.ftype for file in published})
    write_text(plan.output / RECIPE, dump_recipe(_reproducible(plan)))
    if divergences:
        _draw(plan, published)
    write_text(plan.output / CARD, render(_card(plan, published)))
    return report


def _place_files(work: Work, ftypes: set[str]) -> None:
    plan = work.plan
    wanted: dict[str, Path] = {}
    for file in plan.files:
        if file.ftype in ftypes:
            wanted |= dict(zip(file.paths, work.file_paths(file), strict=True))
    if plan.artifacts.imatrix is not None:
        wanted[IMATRIX] = work.workspace.path(plan.artifacts.imatrix) / IMATRIX
    elif plan.imatrix is not None:
        wanted[IMATRIX] = plan.imatrix.path
    with writing(plan.output):
        for present in plan.output.rglob("*.gguf"):
            name = present.relative_to(plan.output).as_posix()
            if name not in wanted and not name.startswith("."):
                present.unlink()
    for name, source in wanted.items():
        place(source, plan.output / name)


def _reproducible(plan: Plan) -> Recipe:
    """The recipe pinned to the commit that was used, without the place it was published to."""
    recipe = plan.recipe.model_copy(update={"publish": Publish(shard_size=plan.recipe.publish.shard_size)})
    if plan.source.id is None:
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": plan.source.revision})})


def _draw(plan: Plan, files: list[FileReport]) -> None: ...


def _card(plan: Plan, files: list[FileReport]) -> Card:
    recipe, source = plan.recipe, plan.source
    calibration, evaluation = plan.calibration, plan.evaluation
    return Card(
        model_name=source.name,
        rows=tuple(_card_row(file) for file in files),
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
        tokens_scored=files[0].divergence.n_tokens if files and files[0].divergence else 0,
        plot=PLOT if evaluation else None,
        verified=True,
        loaded_in_llama_cpp=all(file.runtime == "passed" for file in files),
    )


def _card_row(file: FileReport) -> CardRow:
    measured = file.divergence
    if measured is None:
        return CardRow(file.path, file.ftype, file.size, file.bpw)
    return CardRow(
        file=file.path,
        type=file.ftype,
        size=file.size,
        bpw=file.bpw,
        kld_mean=measured.kld.mean,
        kld_999=measured.kld.percentiles[99.9],
        same_top=measured.same_top,
        ppl_ratio=measured.ratio,
    )


def _card_text(source: TextSource) -> CardText:
    detail = ", ".join(part for part in (source.config, source.split) if part) if source.dataset else ""
    return CardText(source.display_name, is_dataset=source.dataset is not None, detail=detail)


def _one_line(recipe: Recipe) -> str:
    if recipe.publish.to:
        return f"hubquant run hub:{recipe.publish.to}"
    return QUICKSTART if recipe.model.bundled else f"hubquant run {RECIPE}"
