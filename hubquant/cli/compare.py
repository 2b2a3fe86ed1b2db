"""``hubquant compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import RecipeArgument, RevisionOption, SetOption, TypesOption
from hubquant.cli.settings import type_names


def compare(
    recipe: RecipeArgument,
    types: TypesOption = None,
    set: SetOption = None,
    revision: RevisionOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A Markdown file for the whole table; the plot stands beside it, as .png."),
    ] = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a model in several formats and measure them on one scale: gguf:Q4_K_M,bitsandbytes:nf4,sdnq:uint4."""
    from hubquant.api.compare import comparison_recipe
    from hubquant.commands.compare import compare as plan_compare
    from hubquant.recipe import Override

    named = type_names(types, "--types", named=True) if types else None
    flags = [Override("model.revision", revision, "--revision")] if revision else []
    checked = comparison_recipe(recipe, named, [*flags, *(set or [])])
    finish(
        lambda opened, progress: plan_compare(checked, out, opened, progress, device),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        lambda found: found.as_dict(),
        str,
    )
