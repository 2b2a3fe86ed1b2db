"""``hubquant compare``: one model in several formats, measured on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubquant.backends.gguf.backend import GGUF
from hubquant.backends.libraries.registry import library
from hubquant.commands.job import Job, plan_job
from hubquant.commands.targets import check_target
from hubquant.devices import Device
from hubquant.disk import write_at_once
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import UserError
from hubquant.gguf_file import Split
from hubquant.pipeline.prepare import prepare
from hubquant.pipeline.reports import file_reports
from hubquant.pipeline.work import open_model
from hubquant.publish.in_library import library_checks
from hubquant.publish.report import FileReport, MeasurementTable
from hubquant.publish.table import COLUMNS, FILE, OF_SPEEDS, markdown, plain, table
from hubquant.recipe.backends import LIBRARIES
from hubquant.recipe.schema import Recipe

OF_GGUF = ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K")
OF_LIBRARIES = (
    *("bitsandbytes:int8", "bitsandbytes:nf4", "quanto:qint8", "quanto:qint4", "torchao:int8wo"),
    *("nncf:int8_asym", "nncf:int4_sym", "sdnq:int8", "sdnq:uint4"),
)
ON_A_TERMINAL = ("Type", "Size", "bpw", "Mean KLD", "PPL ratio", *OF_SPEEDS)
WHOLE = 1 << 62  # bytes: no file is cut


@dataclass(frozen=True)
class Comparison:
    """``files`` from the largest to the smallest."""

    model: str
    files: Sequence[FileReport]

    def as_dict(self) -> dict[str, Any]:
        return {"model": self.model, "files": [file.as_dict() for file in self.files]}

    @property
    def table(self) -> MeasurementTable:
        """What was measured, as numbers."""
        return MeasurementTable.of(self.files)

    def __str__(self) -> str:
        measured = [file.measured for file in self.files]
        return "\n".join([plain(table(measured, ON_A_TERMINAL)), *library_checks(measured)])

    def markdown(self) -> str:
        """The table with all of its columns."""
        return markdown(table([file.measured for file in self.files], [name for name in COLUMNS if name != FILE]))

    def plot(self) -> bytes:
        """PNG of sizes and divergences."""
        from hubquant.publish.plot import plot

        return plot([file.measured for file in self.files], f"{self.model}: size and divergence")


def compare(recipe: Recipe, out: Path | None, store: Store, progress: Progress, device: Device) -> Job[Comparison]:
    """All types of ``recipe``, made in the store and measured; where ``out`` is given, with a table and a plot there:
    ``out`` is a Markdown file, and the plot stands beside it."""
    if out is not None:
        if out.suffix == ".png":
            raise UserError(f"{out} is the name of a picture", hint=f"name a text: -o {out.with_suffix('.md')}")
        check_target(out, "text")
        check_target(out.with_suffix(".png"), "picture")
    targets = [] if out is None else [out, out.with_suffix(".png")]
    component = open_model(recipe.model, recipe.convert, progress)
    component.check_predicts("comparing")
    gguf = GGUF(Split(WHOLE), "leave imatrix.skip out", compares=True)
    work = prepare(recipe, component, gguf, store, progress, device)

    def deliver(context: Context) -> Comparison:
        found = Comparison(work.source.name, file_reports(work.tasks, context, recipe.gates))
        for target in targets:
            write_at_once(target, found.markdown().encode() if target == out else found.plot())
        return found

    return plan_job(work.tasks.goals, deliver, store, outputs=targets, notes=work.notes, files=work.files)


def usual_types() -> list[str]:
    """Some of each format, as far as its package is installed."""
    there = {name for name in LIBRARIES if library(name).package.installed}
    return [*OF_GGUF, *(each for each in OF_LIBRARIES if each.partition(":")[0] in there)]
