"""``hubquant publish``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.engine.progress import Progress
from hubquant.errors import UserError
from hubquant.pipeline.contents import CARD
from hubquant.pipeline.output_folder import FOLDER, OutputFolder
from hubquant.recipe.schema import Publish

if TYPE_CHECKING:
    from hubquant.hub.push import Pushed


def publish(folder: Path, settings: Publish, progress: Progress) -> Pushed:
    """Upload a finished folder of a run. Raises ``UserError`` for any other folder."""
    from hubquant.pipeline.push import place_to_publish, push_folder

    made = folder_to_publish(folder, settings)
    place, _ = place_to_publish(settings)
    with made.locked():
        return push_folder(made, place, progress)


def folder_to_publish(folder: Path, settings: Publish) -> OutputFolder:
    """The folder of a run whose files may be published, as far as this is known without the Hub. Raises ``UserError``
    for any other folder, or where the model's licence allows no derivatives."""
    from hubquant.pipeline.page import Page
    from hubquant.pipeline.publishing import check_license

    made = finished_folder(folder)
    page = Page.load(made)
    if page is not None:
        check_license(page.source, page.model_name, settings)
    return made


def finished_folder(folder: Path) -> OutputFolder:
    """The folder of a run. Raises ``UserError`` for any other."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", hint=f"make it first: hubquant run MODEL --out {folder}")
    if not (folder / FOLDER).is_dir():
        raise UserError(
            f"hubquant did not make {folder}",
            why="only what `hubquant run` made and checked is published",
            hint="hubquant run MODEL --push REPO",
        )
    made = OutputFolder(folder)
    if CARD not in made:
        raise UserError(
            f"there is nothing to publish in {folder}",
            why="no run has finished there",
            hint=f"run it to its end first: hubquant run MODEL --out {folder}",
        )
    return made
