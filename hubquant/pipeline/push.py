"""From an output folder to its repository: what is there already stays, and stays on the card."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from hubquant.engine.progress import Progress
from hubquant.errors import OutputError, RecipeError
from hubquant.pipeline.contents import CARD, MEASUREMENTS, RECIPE
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.publish.card import is_own
from hubquant.recipe.load import parse_yaml
from hubquant.recipe.schema import Publish

if TYPE_CHECKING:
    from hubquant.hub.branches import PushOptions
    from hubquant.hub.published import Published
    from hubquant.hub.push import Pushed


def place_to_publish(settings: Publish) -> tuple[Publish, Published]:
    """The settings with the full id of a repository that may be written to and holds no card of somebody else, and
    what is there.

    Raises ``HubAccessError`` or ``OutputError``.
    """
    from hubquant.hub.push import can_write

    full_id = can_write(str(settings.to), pull_request=settings.create_pr)
    settings = settings.model_copy(update={"to": full_id})
    published = _look_up(settings)
    _check_card(published, full_id)
    return settings, published


def earlier_revision(published: Published, model_id: str | None) -> str | None:
    """The commit of the model that the published files were made of, by the recipe beside them."""
    if model_id is None or RECIPE not in published.contents:
        return None
    try:
        model = parse_yaml(published.contents[RECIPE].decode("utf-8", "replace"), RECIPE)["model"]
        return str(model["revision"]) if model["id"] == model_id else None
    except (RecipeError, KeyError, TypeError):
        return None


def to_be_pruned(published: Published, names: Collection[str]) -> list[str]:
    """Published files that hubquant measured and that are of no type among ``names``, the names of files without their
    suffixes."""
    from hubquant.publish.measurements import not_replaced, read_measurements

    stored = read_measurements(published.contents.get(MEASUREMENTS, b"")).files
    theirs = [file for file in stored if file.is_what(published.files)]
    return sorted(path for file in not_replaced(theirs, names) for path in file.paths)


def push_folder(folder: OutputFolder, settings: Publish, progress: Progress) -> Pushed:
    """Upload what hubquant made in ``folder``, which is listed first, with a card of all that the repository will hold.

    A file that the repository has of the same model and type in other shards is removed there; with ``prune`` so is
    every measured one that ``folder`` does not have.
    """
    from hubquant.hub.push import push
    from hubquant.pipeline.page import Page

    to, published = str(settings.to), _look_up(settings)
    _check_card(published, to)
    page = Page.load(folder)
    outdated = _update_page(folder, settings, published, progress)
    digests = folder.publishable()
    progress.step("push", f"{to}: {', '.join(digests)}")
    if outdated:
        progress.note(f"removed from {to}: {', '.join(outdated)}")
    total = sum((folder.root / name).stat().st_size for name in digests)
    with progress.bar("push", total, "B") as advance:
        pushed = push(
            folder.root,
            digests,
            to,
            outdated=outdated,
            private=settings.private,
            gated=page.gated if page else None,
            options=_options(settings),
            advance=advance,
        )
    if pushed.commit is None:
        progress.note(f"{to} holds all of it already")
    return pushed


def _look_up(settings: Publish) -> Published:
    from hubquant.hub.branches import present_revision
    from hubquant.hub.published import look_up

    to = str(settings.to)
    return look_up(to, [CARD, MEASUREMENTS, RECIPE], revision=present_revision(to, _options(settings)))


def _options(settings: Publish) -> PushOptions:
    from hubquant.hub.branches import PushOptions

    return PushOptions(settings.branch, settings.create_pr, settings.commit_message)


def _check_card(published: Published, to: str) -> None:
    card = published.contents.get(CARD, b"").decode("utf-8", "replace")
    body = card.split("---", 2)[-1] if card.startswith("---") else card
    if body.strip() and not is_own(card):
        raise OutputError(
            f"{to} has a card that hubquant did not write",
            why="publishing would replace its README.md",
            hint="choose a new repository, or give that README.md another name there",
        )


def _update_page(folder: OutputFolder, settings: Publish, published: Published, progress: Progress) -> list[str]:
    """Write the page anew with the files that only the repository has. Returns its files that are replaced by others
    under another name, and those that are pruned."""
    from hubquant.pipeline.page import Page, measurements_in, undescribed
    from hubquant.publish.measurements import not_replaced, read_measurements, with_earlier

    to, own = str(settings.to), measurements_in(folder)
    names = {file.name for file in own}
    stored = read_measurements(published.contents.get(MEASUREMENTS, b""))
    theirs = [file for file in stored.files if file.is_what(published.files)]
    card = published.contents.get(CARD)
    if card and stored.card_sha256 not in (None, hashlib.sha256(card).hexdigest()):
        progress.note(f"the card of {to} was edited there; the edit stays in its history, at {published.commit}")
    page = Page.load(folder)
    if page is None:
        if not_replaced(theirs, names):
            raise OutputError(
                f"the card in {folder.root} does not tell of all files that {to} has",
                why="an earlier version made the folder",
                hint=f"run the line again that made it, with --push {to}",
            )
        return []
    files = own if settings.prune else with_earlier(own, theirs)
    replaced = (file for file in theirs if settings.prune or file.name in names)
    outdated = sorted(path for file in replaced for path in file.paths if path not in folder)
    others = undescribed([*published.files, *folder], files)
    for name, content in page.contents(files, [name for name in others if name not in outdated], to).items():
        if name in folder and not folder.is_unchanged(name):
            progress.note(f"{name} was edited since hubquant wrote it: it is published as it stands")
        elif name not in folder or (folder.root / name).read_bytes() != content:
            folder.write(name, content)
    return outdated
