"""Options and output that commands with tasks have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from hubquant.cli.output import Output
from hubquant.pipeline.plan_text import estimate_lines, file_lines, step_lines
from hubquant.printable import plain

if TYPE_CHECKING:
    from hubquant.commands.job import Job
    from hubquant.engine.progress import Progress
    from hubquant.engine.store import Store

T = TypeVar("T")

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Where what was made is kept (default: in $HUBQUANT_HOME).")
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", help="Where the model runs; auto takes a GPU if there is one."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]


ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of threads (default: all of the machine).")
]
SplitMaxSizeOption = Annotated[
    str | None, typer.Option("--split-max-size", help="Max size per split: 300M, 5G, 45GiB. Files are not split else.")
]
SplitMaxTensorsOption = Annotated[
    int | None, typer.Option("--split-max-tensors", min=1, help="Max tensors in each split.")
]


def finish(
    prepare: Callable[[Store, Progress], Job[T]],
    store: Path | None,
    dry_run: bool,
    output: Output,
    data: Callable[[T], Any],
    text: Callable[[T], str],
) -> None:
    """Carry a job out and print its result, or show what it would do."""
    from hubquant.commands.job import carry_out
    from hubquant.engine.store import Store

    opened, progress = Store(store), output.progress()
    job = prepare(opened, progress)
    if dry_run:
        output.data(job.as_dict(), lambda: _job_text(job))
        return
    made = carry_out(job, opened, progress)
    output.data(data(made), lambda: text(made))


def _job_text(job: Job[Any]) -> str:
    lines = [
        *step_lines(job.estimate.steps),
        *(["", *file_lines(job.files)] if job.files else []),
        "",
        *estimate_lines(job.estimate),
        *(f"output    {plain(str(path))}" for path in job.outputs),
        *(f"note: {plain(note)}" for note in job.notes),
    ]
    return "\n".join(lines)
