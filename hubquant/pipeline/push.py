"""From an output folder to its repository: what is there already stays, and stays on the card."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hubquant.engine.progress import Progress
from hubquant.errors import OutputError
from hubquant.pipeline.contents import CARD, MEASUREMENTS, is_own_card
from hubquant.pipeline.output_folder import OutputFolder

if TYPE_CHECKING:
    from hubquant.hub.published import Published
    from hubquant.hub.push import Pushed


def place_to_publish(repo_id: str) -> str:
    """The full id of a repository that may be written to and holds no card of somebody else.

    Raises ``HubAccessError`` or ``OutputError``.
    """
    from hubquant.hub.published import look_up
    from hubquant.hub.push import can_write

    full_id = can_write(repo_id)
    _check_card(look_up(full_id, [CARD]), full_id)
    return full_id


def push_folder(folder: OutputFolder, to: str, private: bool, progress: Progress) -> Pushed:
    """Upload what hubquant made in ``folder``, which is listed first, with a card of all that the repository will hold.

    A file that the repository has of the same model and type in other shards is removed there.
    """
    from hubquant.hub.published import look_up
    from hubquant.hub.push import push

    published = look_up(to, [CARD, MEASUREMENTS])
    _check_card(published, to)
    outdated = _update_page(folder, to, published, progress)
    digests = folder.publishable()
    progress.step("push", f"{to}: {', '.join(digests)}")
    if outdated:
        progress.note(f"replaced and removed from {to}: {', '.join(outdated)}")
    total = sum((folder.root / name).stat().st_size for name in digests)
    with progress.bar("push", total, "B") as advance:
        pushed = push(folder.root, digests, to, outdated=outdated, private=private, advance=advance)
    if pushed.commit is None:
        progress.note(f"{to} holds all of it already")
    return pushed


def _check_card(published: Published, to: str) -> None:
    card = published.contents.get(CARD, b"").decode("utf-8", "replace")
    body = card.split("---", 2)[-1] if card.startswith("---") else card
    if body.strip() and not is_own_card(card):
        raise OutputError(
            f"{to} has a card that hubquant did not write",
            why="publishing would replace its README.md",
            hint="choose a new repository, or give that README.md another name there",
        )


def _update_page(folder: OutputFolder, to: str, published: Published, progress: Progress) -> list[str]:
    """Write the page anew with the files that only the repository has. Returns its files that are replaced by others
    under another name."""
    from hubquant.pipeline.page import Page, measurements_in, undescribed
    from hubquant.publish.measurements import not_replaced, read_measurements, with_earlier

    own = measurements_in(folder)
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
    files = with_earlier(own, theirs)
    outdated = [path for file in theirs if file.name in names for path in file.paths if path not in folder]
    others = undescribed([*published.files, *folder], files)
    for name, content in page.contents(files, [name for name in others if name not in outdated], to).items():
        if name in folder and not folder.is_unchanged(name):
            progress.note(f"{name} was edited since hubquant wrote it: it is published as it stands")
        elif name not in folder or (folder.root / name).read_bytes() != content:
            folder.write(name, content)
    return outdated
