"""``hubquant run`` and ``hubquant plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubquant.cli import pushing
from hubquant.cli.job import DryRunOption, StoreOption
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.pushing import BranchOption, CreatePrOption, MessageOption, PermissionOption, PruneOption
from hubquant.cli.settings import type_names

if TYPE_CHECKING:
    from hubquant.recipe import Override

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
    branch: BranchOption = None,
    create_pr: CreatePrOption = False,
    commit_message: MessageOption = None,
    prune: PruneOption = False,
    i_have_permission: PermissionOption = False,
    dry_run: DryRunOption = False,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from what is there, or start over.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take a model to measured, verified GGUF files, and publish them."""
    from hubquant.api import run as run_recipe

    output = Output(as_json=as_json, quiet=quiet)
    how = pushing.overrides(branch, create_pr, commit_message, prune, i_have_permission)
    overrides = [*how, *_overrides(types, push, pre_tokenizer, set)]
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
    i_have_permission: PermissionOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the steps, types, sizes, memory, disk and downloads of a run, and do nothing."""
    output = Output(as_json=as_json, quiet=quiet)
    permission = pushing.overrides(None, False, None, False, i_have_permission)
    _show_plan(recipe, [*permission, *_overrides(types, push, pre_tokenizer, set)], out, store, output)


def _overrides(
    types: list[str] | None, push: str | None, pre_tokenizer: str | None, given: list[str] | None
) -> list[str | Override]:
    from hubquant.recipe import Override

    options = {
        "--types": ("quantize.types", type_names(types, "--types", named=True) if types else None),
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
    output.data(made.as_dict(), lambda: str(made))
