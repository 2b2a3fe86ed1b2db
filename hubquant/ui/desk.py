"""What visitors may ask for: the same for the pages and for programs. Each call is for one visitor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hubquant
from hubquant.errors import DiskFullError, RecipeError, UserError
from hubquant.jobs.cleaning import check_room
from hubquant.jobs.job import LOCAL
from hubquant.jobs.orders import order
from hubquant.mix.budget import Budget
from hubquant.recipe.names import HUB_ID
from hubquant.recipe.schema import ModelReference, Recipe, name_of
from hubquant.ui.form import DEMO, display_model, parse_text
from hubquant.ui.identity import Identity, Visitor
from hubquant.ui.uploads import Uploads, names_of_files
from hubquant.units import size

if TYPE_CHECKING:
    from hubquant.commands.survey import Making, Survey
    from hubquant.hub.listing import FoundModel
    from hubquant.jobs.job import Job, Order
    from hubquant.jobs.queue import Queue, Result

FOUND = 12


@dataclass(frozen=True)
class PlannedFile:
    """``size`` in bytes; None where the recipe's own rules decide, which only a run weighs."""

    name: str
    size: int | None
    published: bool


@dataclass(frozen=True)
class Estimate:
    """What a recipe comes to, from metadata. Bytes and seconds are upper estimates, None where they are not known."""

    model: str
    files: tuple[PlannedFile, ...]
    ram_bytes: int | None
    disk_bytes: int | None
    seconds: float | None
    to: str | None
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(file.size or 0 for file in self.files)


@dataclass(frozen=True)
class Desk:
    """``store`` is where what was made is kept, None for the machine's own."""

    queue: Queue
    identity: Identity
    uploads: Uploads
    store: Path | None = None

    def visitor(self, request: Any) -> Visitor:
        """Whose request it is. Jobs that wait for a token of theirs go on."""
        found = self.identity.visitor(request)
        if found.owner is not None and isinstance(found.token, str):
            self.queue.offer(found.owner, found.token)
        elif found.is_local:  # who has signed out
            self.queue.forget_token(LOCAL)
        return found

    def search(self, visitor: Visitor, text: str) -> list[FoundModel]:
        return hubquant.search(text, limit=FOUND, token=visitor.token)

    def survey(self, visitor: Visitor, model: str, to: str | None = None) -> Survey:
        return hubquant.survey(self._reference(visitor, model), token=visitor.token, to=to, store=self.store)

    def check(self, visitor: Visitor, text: str) -> Estimate:
        """What a recipe would come to. Raises ``UserError`` for what can be known to fail."""
        work, _ = self._order(visitor, text)
        recipe = work.recipe
        found = self.survey(visitor, display_model(work.models[0].model), recipe.publish.to)
        if found.unsupported is not None:
            raise UserError(f"{found.model} cannot be quantized", why=found.unsupported, hint=found.hint)
        if recipe.publish.to and not found.license.derivatives and not recipe.publish.i_have_permission:
            why = f"its licence ({found.license.tag}) allows no changed copies"
            raise UserError(f"files of {found.model} may not be published", why=why, hint="leave the repository out")
        estimate = _estimate(found, recipe)
        self._check_room(visitor, estimate)
        return estimate

    def submit(self, visitor: Visitor, text: str) -> Job:
        owner = visitor.known()
        self.check(visitor, text)
        _, files = self._order(visitor, text)
        return self.queue.submit(owner, parse_text(text), uploads=files)

    def jobs(self, visitor: Visitor) -> Sequence[Job]:
        return [] if visitor.owner is None else self.queue.list(visitor.owner)

    def job(self, visitor: Visitor, id: str) -> Job:
        return self.queue.get(visitor.known(), id)

    def events(self, visitor: Visitor, id: str, after: int = 0) -> Sequence[dict[str, Any]]:
        return self.queue.events(visitor.known(), id, after=after)

    def results(self, visitor: Visitor, id: str) -> Sequence[Result]:
        return self.queue.results(visitor.known(), id)

    def files(self, visitor: Visitor, id: str) -> Mapping[str, int]:
        return self.queue.files(visitor.known(), id)

    def file(self, visitor: Visitor, id: str, name: str) -> Path:
        return self.queue.file(visitor.known(), id, name)

    def cancel(self, visitor: Visitor, id: str) -> Job:
        return self.queue.cancel(visitor.known(), id)

    def retry(self, visitor: Visitor, id: str) -> Job:
        return self.queue.retry(visitor.known(), id)

    def remove(self, visitor: Visitor, id: str) -> None:
        self.queue.remove(visitor.known(), id)

    def upload(self, visitor: Visitor, path: Path, name: str) -> str:
        return self.uploads.keep(visitor.known(), path, name)

    def _order(self, visitor: Visitor, text: str) -> tuple[Order, Mapping[str, Path]]:
        data = parse_text(text)
        files = self.uploads.named(visitor.owner, names_of_files(data)) if visitor.owner else {}
        return order(data, uploads=tuple(files), stranger=not visitor.is_local), files

    def _reference(self, visitor: Visitor, typed: str) -> ModelReference:
        """For anybody but this machine's user a name is one of the Hub, whatever lies here."""
        from hubquant.recipe.references import model_reference

        typed = typed.strip()
        if typed == DEMO:
            return ModelReference(bundled="demo")
        if not typed:
            raise RecipeError("no model is named", hint="type a name, such as Qwen/Qwen3-0.6B")
        if not visitor.is_local and HUB_ID.fullmatch(typed.partition("@")[0]):
            typed = f"hf://{typed}"
        reference = ModelReference.model_validate(model_reference(typed))
        if reference.id is None and not visitor.is_local:
            raise UserError(f"{typed} is not on the Hub", hint="name a model such as Qwen/Qwen3-0.6B")
        return reference

    def _check_room(self, visitor: Visitor, estimate: Estimate) -> None:
        needed = estimate.disk_bytes or estimate.total
        free = shutil.disk_usage(self.queue.folder).free
        if needed > free:
            raise DiskFullError(
                f"the disk has {size(free)} left", why=f"this takes up to {size(needed)}", hint="choose fewer types"
            )
        check_room(estimate.total, self.queue.disk_left(visitor.owner) if visitor.owner else None)


def _estimate(found: Survey, recipe: Recipe) -> Estimate:
    types = {each.name: each for each in found.types}
    published = {file.type for file in found.published.files} if found.published else set()
    files: list[PlannedFile] = []
    makings: list[Making] = []
    files += [PlannedFile(name, None, name in published) for name in recipe.quantize.in_libraries]
    sized = False  # a file of a given size, for which the tensors are measured first, which takes an unknown time
    for entry in recipe.quantize.of_gguf.types:
        if isinstance(entry, str) and (budget := Budget.of(entry)) is not None:
            n_bytes = budget.n_bytes(found.parameters) if found.parameters else None
            files.append(PlannedFile(entry, n_bytes, entry in published))
            like, sized = types["Q4_K_M"].making, True
            makings += [like] if like else []
            continue
        plain = isinstance(entry, str)
        type = types[entry if isinstance(entry, str) else entry.type]
        name = name_of(entry)
        if type.unavailable is not None:
            raise UserError(f"{name} cannot be made of {found.model}", why=type.unavailable, hint="choose another type")
        if plain and type.needs_imatrix and recipe.imatrix.skip:
            raise UserError(
                f"{name} needs calibration",
                why="so few bits are placed by what the model does with text",
                hint="choose a text to calibrate on, or another type",
            )
        as_it_is = plain and not recipe.quantize.rules and not recipe.quantize.pure
        files.append(PlannedFile(name, type.size if as_it_is else None, name in published))
        makings += [type.making] if type.making else []
    seconds = [making.seconds for making in makings]
    known = [each for each in seconds if each is not None]
    return Estimate(
        model=found.model,
        files=tuple(files),
        ram_bytes=max((making.ram_bytes for making in makings), default=None),
        disk_bytes=_disk_bytes(files, makings),
        seconds=sum(known) if known and len(known) == len(seconds) and not sized else None,
        to=recipe.publish.to,
        notes=found.notes,
    )


def _disk_bytes(files: Sequence[PlannedFile], makings: Sequence[Making]) -> int | None:
    """What all have in common, such as the download, once, and every file."""
    if not makings:
        return None
    sizes = [file.size or 0 for file in files]
    return max(making.disk_bytes for making in makings) + sum(sizes) - max(sizes)
