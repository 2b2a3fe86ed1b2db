"""``hubquant run`` and ``hubquant plan``."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubquant.cli.job import DryRunOption, StoreOption, estimate_lines
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.settings import type_names
from hubquant.cli.text import plain
from hubquant.units import size

if TYPE_CHECKING:
    from hubquant.pipeline.plan import Plan
    from hubquant.recipe import Override

WIDTH = 80  # columns
INDENT = " " * 18

RecipeArgument = Annotated[
    str,
    typer.Argument(metavar="RECIPE|MODEL", help="A recipe.yaml, Hub id, folder, GGUF file, hub:org/repo, quickstart."),
]
TypesOption = Annotated[
    list[str] | None, typer.Option("--types", "-t", help="File types, separated by commas: Q8_0,Q4_K_M. Repeatable.")
]
PushOption = Annotated[str | None, typer.Option("--push", help="The Hub repository to publish to.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a field: quantize.mode=exact. Repeatable.")
]
PreTokenizerOption = Annotated[
    str | None, typer.Option("--pre-tokenizer", help="llama.cpp's name of the pre-tokenizer, if it is not recognised.")
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="The output folder (default: <model>-GGUF).")]


def run(
    recipe: RecipeArgument,
    types: TypesOption = None,
    push: PushOption = None,
    set: SetOption = None,
    pre_tokenizer: PreTokenizerOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from what is there, or start over.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take a model to measured, verified GGUF files, and publish them."""
    from hubquant.api import run as run_recipe

    output = Output(as_json=as_json, quiet=quiet)
    overrides = _overrides(types, push, pre_tokenizer, set)
    if dry_run:
        _show_plan(recipe, overrides, out, store, output)
        return
    report = run_recipe(recipe, overrides=overrides, out=out, store=store, fresh=not resume, progress=output.progress())
    output.data(report.as_dict(), report.text)
    if report.failed_gates:
        raise typer.Exit(1)


def plan(
    recipe: RecipeArgument,
    types: TypesOption = None,
    push: PushOption = None,
    set: SetOption = None,
    pre_tokenizer: PreTokenizerOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the steps, types, sizes, memory, disk and downloads of a run, and do nothing."""
    output = Output(as_json=as_json, quiet=quiet)
    _show_plan(recipe, _overrides(types, push, pre_tokenizer, set), out, store, output)


def _overrides(
    types: list[str] | None, push: str | None, pre_tokenizer: str | None, given: list[str] | None
) -> list[str | Override]:
    from hubquant.recipe import Override

    options = {
        "--types": ("quantize.types", type_names(types, "--types") if types else None),
        "--push": ("publish.to", push),
        "--pre-tokenizer": ("convert.pre_tokenizer", pre_tokenizer),
    }
    flags = [Override(path, value, flag) for flag, (path, value) in options.items() if value]
    return [*flags, *(given or [])]


def _show_plan(
    recipe: str, overrides: list[str | Override], out: Path | None, store: Path | None, output: Output
) -> None:
    from hubquant.api import plan as plan_recipe

    made = plan_recipe(recipe, overrides=overrides, out=out, store=store, progress=output.progress())
    output.data(made.as_dict(), lambda: _plan_text(made))


def _plan_text(plan: Plan) -> str:
    model = plan.work.component
    lines = [
        f"{plain(plan.source.name)}  {model.conversion.architecture}, {model.n_parameters / 1e6:.1f} M weights",
        "",
    ]
    lines += [f"{step.name:>10}  {plain(step.detail)}{' (done before)' if step.done else ''}" for step in plan.steps]
    lines += ["", f"{'size':>8} {'bpw':>7}  file, and the types of its tensors"]
    for file in plan.files:
        lines.append(f"{size(file.size):>8} {file.bpw:>7.3f}  {plain(file.name)}")
        lines += textwrap.wrap(_count_types(file.types), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    lines += [
        "",
        f"tokenizer {plan.work.checked.vocabulary}",
        *estimate_lines(plan.estimate),
        f"output    {plain(str(plan.output))}",
        *(f"note: {plain(note)}" for note in plan.notes),
    ]
    return "\n".join(lines)


def _count_types(types: Mapping[str, str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(types.values()).most_common())
