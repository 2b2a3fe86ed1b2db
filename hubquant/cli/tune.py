"""``hubquant tune``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL|FILE.gguf", help="A Hub id, a folder, or a GGUF file.")],
    context: Annotated[
        int, typer.Option("--context", "--context-size", "-c", min=16, help="Tokens in a chunk or a prompt.")
    ] = 2048,
    engine: Annotated[
        Literal["torch", "llamacpp"],
        typer.Option("--engine", help="Tune what collects matrices here, or llama.cpp's batch and ubatch for a file."),
    ] = "torch",
    seconds: Annotated[int, typer.Option("--seconds", min=0, help="About how long batches are timed.")] = 60,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")] = False,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the batch size that is fastest within memory. Runs and imatrix collect use it from then on."""
    from hubquant.commands.tune import Request
    from hubquant.commands.tune import tune as plan_tune

    request = Request(model, context, engine, device, seconds, fresh)
    finish(
        lambda opened, progress: plan_tune(request, opened, progress),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        lambda found: found.as_dict(),
        str,
    )
