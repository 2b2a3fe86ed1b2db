"""``hubquant batch`` and a round of ``hubquant watch``: runs one after the other, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.disk import user_path
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import fingerprint
from hubquant.errors import HubquantError, SignInError, UserError
from hubquant.jobs.models import DEMO, BatchRecord, BatchState, QueuedModel, opened
from hubquant.mix import check_recipe
from hubquant.recipe.load import Override, load_recipe
from hubquant.recipe.schema import ModelReference, Recipe
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.pipeline.plan import Plan

Status = Literal["done", "done before", "left alone", "planned", "failed", "failed before"]


OF_BEFORE: tuple[Status, ...] = ("done before", "left alone", "failed before")


@dataclass(frozen=True)
class BatchResult:
    status: Status
    record: BatchRecord
    out: Path

    def as_dict(self) -> dict[str, Any]:
        found = self.record.model_dump(include={"model", "revision", "to", "url", "files", "error", "seconds"})
        return {"status": self.status, **found, "out": str(self.out)}


@dataclass(frozen=True)
class Batch:
    """``recipe`` is what all models have in common. ``again`` says whether what failed for a reason that lasts, such
    as a model that is not supported, is tried again; anything else always is. ``allow`` raises for a plan that is not
    to be carried out."""

    queue: Sequence[QueuedModel]
    recipe: Recipe
    state: Path
    store: Store
    again: bool = True
    allow: Callable[[Plan], object] = lambda _: None

    def carry_out(self, progress: Progress) -> list[BatchResult]:
        """Make and publish what was not made before from the same things; a failure is that of one model only.

        Can be killed at any moment: the same call goes on.
        """

        def make(entry: QueuedModel, recipe: Recipe, record: BatchRecord) -> BatchRecord:
            from hubquant.pipeline.plan import make_plan  # torch, only where something is to be made
            from hubquant.pipeline.run import execute

            plan = make_plan(recipe, entry.out, self.store, progress)
            self.allow(plan)
            report = execute(plan, self.store, progress)
            failed = ", ".join(file.measured.type for file in report.failed_gates)
            found = {
                "files": {file.measured.file: file.measured.size for file in report.passed},
                "to": plan.recipe.publish.to,
                "url": report.url,
                "error": f"{failed} did not pass the gate" if failed else None,
                "lasting": bool(failed),
            }
            return record.model_copy(update=found)

        results = []
        with opened(self.state) as memory:
            for number, entry in enumerate(self.queue, 1):
                progress.step("model", f"{number} of {len(self.queue)}: {entry.name}")
                result = self._attempt(entry, memory, make, "done", progress)
                memory.put(entry, result.record)
                results.append(result)
                gc.collect()  # or else a model that its own references hold would lie beside the next one
        return results

    def leave_alone(self, progress: Progress) -> list[BatchResult]:
        """Remember all that is there, so that only what changes from now on is made."""
        with opened(self.state) as memory:
            results = [self._attempt(e, memory, lambda *given: given[-1], "left alone", progress) for e in self.queue]
            for entry, result in zip(self.queue, results, strict=True):
                if result.status == "left alone":
                    memory.put(entry, result.record.model_copy(update={"left_alone": True}))
        return results

    def plan(self, progress: Progress) -> list[BatchResult]:
        """What :meth:`carry_out` would do, with the sizes of the files."""
        from hubquant.pipeline.plan import make_plan

        def plan(entry: QueuedModel, recipe: Recipe, record: BatchRecord) -> BatchRecord:
            made = make_plan(recipe, entry.out, self.store, progress)
            return record.model_copy(update={"files": {file.name: file.size for file in made.files}})

        memory = BatchState(self.state)
        return [self._attempt(entry, memory, plan, "planned", progress) for entry in self.queue]

    def _attempt(
        self,
        entry: QueuedModel,
        memory: BatchState,
        work: Callable[[QueuedModel, Recipe, BatchRecord], BatchRecord],
        status: Status,
        progress: Progress,
    ) -> BatchResult:
        begin, known = time.monotonic(), memory.get(entry)
        record = BatchRecord(model=entry.name, to=entry.to, hubquant=__version__)
        try:
            recipe, record = self._recipe(entry), record.model_copy(update={"revision": _state_of(entry.model)})
            if entry.model.id:  # what is made is what is remembered, whatever is pushed there meanwhile
                recipe = recipe.model_copy(
                    update={"model": entry.model.model_copy(update={"revision": record.revision})}
                )
            # without defaults: a later version with a further field makes nothing again
            said = recipe.model_dump(mode="json", exclude_defaults=True)
            record = record.model_copy(update={"made_from": fingerprint(said)})
            if known is not None and self._stands(known, record, entry):
                before: Status = "failed before" if known.error else "left alone" if known.left_alone else "done before"
                return BatchResult(before, known, entry.out)
            record = work(entry, recipe, record)
        except Exception as error:
            lasting = isinstance(error, UserError) and record.made_from is not None
            sign_in = isinstance(error, SignInError)
            record = record.model_copy(update={"error": error_text(error), "lasting": lasting, "sign_in": sign_in})
        if record.error:
            status = "failed"
            progress.note(f"{entry.name} failed: {record.error}")
        times = {"seconds": round(time.monotonic() - begin, 3), "finished": time.time()}
        return BatchResult(status, record.model_copy(update=times), entry.out)

    def _recipe(self, entry: QueuedModel) -> Recipe:
        publish = self.recipe.publish.model_copy(update={"to": entry.to})
        return self.recipe.model_copy(update={"model": entry.model, "publish": publish})

    def _stands(self, known: BatchRecord, record: BatchRecord, entry: QueuedModel) -> bool:
        """Whether nothing is to be done. Of what was published, the folder may be gone."""
        if known.revision != record.revision:
            return False
        if known.left_alone:
            return True
        if known.made_from != record.made_from:
            return False
        if known.error is None:
            return known.url is not None or entry.out.is_dir()
        return known.lasting and not self.again and known.hubquant == record.hubquant


def common_recipe(reference: str | None, overrides: Iterable[str | Override], queue: Sequence[QueuedModel]) -> Recipe:
    """The recipe of all models: by default what a model alone stands for. Raises ``UserError``."""
    model = Override("model", DEMO, "the model")
    recipe = check_recipe(load_recipe(reference or "default", [*overrides, model], fetch=_fetch))
    if recipe.publish.to is not None and any(entry.to is None for entry in queue):
        raise UserError(
            f"every model would be published to {recipe.publish.to}",
            why="the recipe names one repository",
            hint="write --push 'me/{model}-GGUF'",
        )
    return recipe


def _fetch(repository: str) -> Path:
    from hubquant.hub.pull import fetch_file

    return fetch_file(repository, "recipe.yaml")


def _state_of(model: ModelReference) -> str | None:
    """What tells that a model has changed: its commit, or the sizes and times of its files."""
    if model.id is not None:
        from hubquant.hub.pull import resolve

        return resolve(model.id, model.revision).revision
    if (path := model.folder or model.file) is None:
        return None
    place = user_path(path)
    files = [place] if place.is_file() else sorted(place.glob("*"))
    found = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return fingerprint(found)[:16]


def error_text(error: Exception) -> str:
    if isinstance(error, HubquantError):
        return ". ".join(part for part in (str(error), error.hint and f"Next: {error.hint}") if part)
    return f"{type(error).__name__}: {error}"
