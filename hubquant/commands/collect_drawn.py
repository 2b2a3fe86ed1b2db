"""``hubquant imatrix collect`` of a diffusers pipeline, while it draws."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hubquant.commands.job import Job, plan_job, put
from hubquant.devices import Device
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import OutputError
from hubquant.imatrix import ImportanceMatrix, load_imatrix, lost_in_dat, save
from hubquant.imatrix.files import DAT
from hubquant.observe.continuing import continued
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.drawing.imatrix import KEPT_PICTURES, DrawnImatrix
from hubquant.pipeline.drawing.prepare import check_prompts, loaded
from hubquant.pipeline.given_imatrix import imatrix_path
from hubquant.recipe.pictures import Pictures
from hubquant.sources.component import Component


@dataclass(frozen=True)
class Drawing:
    """What is drawn. ``pictures_to`` is a folder for the pictures, None where they are not kept."""

    settings: Pictures = field(default_factory=Pictures)
    convolutions: bool = False
    pictures_to: Path | None = None


def collect_drawn(
    component: Component, drawing: Drawing, out: Path, in_files: Sequence[str], store: Store, device: Device
) -> Job[ImportanceMatrix]:
    """``in_files`` are added to what is collected. Raises a ``UserError`` before any weight is read."""
    from hubquant.calibration.prompts import read_prompts

    component.check_draws("calibrating")
    prompts = read_prompts(drawing.settings)
    notes = list(check_prompts(component, drawing.settings, prompts))
    folder = drawing.pictures_to
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty folder", hint="name a new folder for the pictures")
    task = DrawnImatrix(
        component,
        drawing.settings,
        prompts,
        loaded(component, device),
        drawing.convolutions,
        keeps_pictures=folder is not None,
    )
    given = [load_imatrix(imatrix_path(name)) for name in in_files]
    for each in given:
        component.fitted(each)

    def deliver(context: Context) -> ImportanceMatrix:
        made = context.store.path(task)
        collected = context.read(task)
        matrix = continued(collected, given)
        if out.suffix == DAT or given:
            save(matrix, out)
            for note in lost_in_dat(matrix) if out.suffix == DAT else ():
                context.progress.note(f"the .dat format: {note}")
        else:
            put(made / IMATRIX, out, store)
        if folder is not None:
            shutil.copytree(made / KEPT_PICTURES, folder, dirs_exist_ok=True)
        return matrix

    return plan_job([task], deliver, store, outputs=[out], placed_bytes=task.cost.disk_bytes, notes=notes)
