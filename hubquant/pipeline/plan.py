"""From a recipe to a plan: every step, type and size, before the first byte of work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.gguf.files import FilePlan
from hubquant.devices import Device, chosen_device
from hubquant.engine.machine import check_disk, check_memory, same_disk
from hubquant.engine.progress import Progress
from hubquant.engine.schedule import Estimate, Step, estimate, missing
from hubquant.engine.store import Store
from hubquant.engine.task import closure
from hubquant.gguf_file import Split
from hubquant.pipeline.contents import CARD, CURVE, GRID, IMATRIX, PLOT, RECIPE, planned_names, tasks_of_results
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.plan_text import plan_html, plan_text
from hubquant.pipeline.prepare import prepare
from hubquant.pipeline.projectors import projector_tasks, seeing
from hubquant.pipeline.publishing import card_template, check_license, names_in_files
from hubquant.pipeline.tasks import RecipeTasks
from hubquant.pipeline.work import Work, collects, open_model
from hubquant.publish.template import CardTemplate
from hubquant.recipe.schema import Recipe
from hubquant.recipe.sizes import parse_size
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from hubquant.hub.published import Published

LESS_MEMORY = "leave imatrix.offload and evaluate.way at auto: then the weights are streamed"
NO_SIZES = "name types instead of sizes: tensors are measured one by one with the whole model in memory"


@dataclass(frozen=True)
class Plan:
    """``estimate`` is what was left to do when the plan was made; ``uploads`` is what ``output`` will hold, empty where
    nothing is published; ``template`` is the user's own for the card; ``results`` are the measurements
    that the Hub keeps in a form of its own. ``asked`` is the recipe before types were chosen for files of a given size,
    and models run on ``device``."""

    work: Work
    output: Path
    estimate: Estimate
    uploads: Sequence[str]
    notes: Sequence[str]
    template: CardTemplate | None = None
    results: frozenset[str] = frozenset()
    asked: Recipe | None = None
    device: Device = "auto"

    @property
    def recipe(self) -> Recipe:
        return self.work.recipe

    @property
    def source(self) -> SourceModel:
        return self.work.source

    @property
    def tasks(self) -> RecipeTasks:
        return self.work.tasks

    @property
    def files(self) -> list[FilePlan]:
        return self.work.files

    @property
    def steps(self) -> list[Step]:
        """Those of the tasks, and what is done with them in the end."""
        shown = not self.recipe.evaluate.skip
        pictures = [PLOT, GRID, CURVE] if self.work.component.denoises else [PLOT]
        card = ", ".join([CARD, RECIPE, *(pictures if shown else [])])
        to = self.recipe.publish.to
        push = [Step("push", f"{to}: {', '.join(self.uploads)}")] if to else []
        return [*self.estimate.steps, Step("card", card), *push]

    def __str__(self) -> str:
        return plan_text(self)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return plan_html(self)

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.source.name,
            "revision": self.source.revision,
            "architecture": self.work.component.conversion.architecture,
            "parameters": self.work.component.n_parameters,
            "tokenizer": None if self.work.component.denoises else self.work.checked.tokenizer,
            "steps": [{"name": s.name, "detail": s.detail, "done": s.done} for s in self.steps],
            "files": [file.as_dict() for file in self.files],
            "projectors": [file.as_dict() for file in self.work.projectors],
            "budgets": [chosen.as_dict() for chosen in self.work.chosen],
            "folders": [folder.as_dict() for folder in self.work.folders],
            "peak_ram_bytes": self.estimate.ram_bytes,
            "disk_bytes": self.estimate.disk_bytes,
            "download_bytes": self.estimate.download_bytes,
            "seconds": self.estimate.seconds,
            "output": str(self.output),
            "uploads": list(self.uploads),
            "notes": list(self.notes),
        }


def make_plan(
    recipe: Recipe,
    output: Path | None,
    store: Store,
    progress: Progress,
    device: Device = "auto",
    *,
    fresh: bool = False,
) -> Plan:
    """Models run on ``device``; with ``fresh`` nothing counts as done. Raises a ``UserError`` for everything that would
    fail later and can be known now."""
    chosen_device(device)
    shard_bytes = parse_size(recipe.publish.shard_size, "publish.shard_size")
    published = None
    if recipe.publish.to is not None:
        from hubquant.pipeline.push import place_to_publish

        settings, published = place_to_publish(recipe.publish)
        recipe = recipe.model_copy(update={"publish": settings})
    folder = None if output is None else OutputFolder(output, store)
    template = card_template(recipe)
    component = open_model(recipe.model, recipe.convert, progress)
    if recipe.publish.to is not None:
        check_license(component.source.card, component.source.full_name, recipe.publish)
    runs = collects(recipe) or not recipe.evaluate.skip
    backend = GGUF(Split(shard_bytes), "leave imatrix.skip out", compares=runs, named=names_in_files(recipe.publish))
    projectors, without = projector_tasks(recipe, component, backend, progress)
    component = seeing(component, projectors) if projectors else component
    work = prepare(recipe, component, backend, store, progress, device, decides=True, fresh=fresh)
    tasks = replace(work.tasks, projectors=tuple(projectors))
    work = replace(work, tasks=tasks, notes=[*work.notes, *without])
    asked, recipe = recipe, work.recipe
    folder = folder or OutputFolder(Path(f"{work.source.name}-GGUF"), store)
    results = tasks_of_results(recipe)
    has_imatrix = work.importance is not None
    names = planned_names(
        recipe, work.made, has_imatrix=has_imatrix, has_results=bool(results), draws=component.denoises
    )
    names += [path for each in work.projectors for path in each.paths]
    folder.check(names, _sources(work.tasks, store))
    names += [name for name in folder if name not in names]
    goals = work.tasks.goals
    found = estimate(work.tasks, list(closure(goals)) if fresh else missing(goals, store), store.rates())
    check_memory(found.ram_bytes, NO_SIZES if work.undecided else LESS_MEMORY)
    check_room(found, [each.size for each in work.written], store, folder.root, "--out")
    uploads = names if recipe.publish.to else ()
    notes = [*work.notes, *_foreign_note(folder), *(_published_notes(work, published) if published else [])]
    return Plan(work, folder.root, found, uploads, notes, template, results, asked, device)


def check_room(found: Estimate, placed: Sequence[int], store: Store, output: Path, option: str) -> None:
    """Raises ``OutputError`` where the store or the output has too little; a link takes none, where there can be."""
    check_disk(found.disk_bytes + found.download_bytes, store.root, "--store")
    check_disk(0 if same_disk(store.root, output) else sum(placed), output, option)


def _sources(tasks: RecipeTasks, store: Store) -> Mapping[str, Sequence[Path]]:
    """Where the files of the output are in the store, of which they are links: of two that are compared either."""
    found = defaultdict[str, list[Path]](list)
    for each in (*tasks.files, *tasks.projectors):
        for one in (each, each.plain) if each.plain else (each,):
            for path in one.plan.paths:
                found[path].append(store.path(one.file) / Path(path).name)
    matrix = [] if tasks.imatrix is None else [store.path(tasks.imatrix) / IMATRIX]
    return {**found, IMATRIX: matrix}


def _published_notes(work: Work, published: Published) -> list[str]:
    """Where the model has changed since its files were published, and what will be removed of these."""
    from hubquant.pipeline.push import earlier_revision, to_be_pruned

    source, settings, notes = work.source, work.recipe.publish, []
    if (before := earlier_revision(published, source.id)) not in (None, source.revision):
        notes.append(f"the files of {settings.to} were made of {source.id} at {before}; it is at {source.revision} now")
    if settings.prune and (old := to_be_pruned(published, work.names)):
        notes.append(f"to be removed from {settings.to}: {', '.join(old)}")
    return notes


def _foreign_note(folder: OutputFolder) -> list[str]:
    if not (foreign := folder.foreign()):
        return []
    return [f"{len(foreign)} files in {folder.root} are not hubquant's and are left alone: {', '.join(foreign[:3])}"]
