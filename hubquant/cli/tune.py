"""``hubquant tune``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.units import measured, size

if TYPE_CHECKING:
    from hubquant.commands.tune import Found
    from hubquant.pipeline.tuning import Timed


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
        _as_dict,
        _text,
    )


def _as_dict(found: Found) -> dict[str, Any]:
    return {**asdict(found.tuned), "known": found.is_known}


def _text(found: Found) -> str:
    tuned, winner = found.tuned, found.tuned.winner
    lines = [f"{_name(each):>12}  {_row(each)}{'  *' if each == winner else ''}" for each in tuned.candidates]
    in_llama_cpp = winner.ubatch is not None
    result = [f"-b {winner.batch} -ub {winner.ubatch}" if in_llama_cpp else f"{winner.batch} tokens at a time"]
    if not tuned.settled:
        result.append("not sure, and not used: more --seconds with --fresh may find a faster one")
    else:
        result.append("for llama.cpp's own programs" if in_llama_cpp else "used by run and imatrix collect from now on")
    if tuned.ended:
        result.append(f"no larger ones: {tuned.ended}")
    if found.is_known:
        result.append("measured before; --fresh measures it again")
    head = "batch/ubatch" if in_llama_cpp else "batch"
    return "\n".join([f"{head:>12}  tokens/s, rounds, memory", *lines, "", *result])


def _name(each: Timed) -> str:
    return f"{each.batch}" if each.ubatch is None else f"{each.batch}/{each.ubatch}"


def _row(each: Timed) -> str:
    speed = measured(each.speed, each.error)
    return f"{speed:>18}  {each.rounds:>3}  {size(each.memory_bytes):>8}"
