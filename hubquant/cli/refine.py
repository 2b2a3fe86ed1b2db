"""``hubquant refine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.job import DeviceOption, DryRunOption, StoreOption, finish
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.run import RecipeArgument, SetOption
from hubquant.cli.settings import type_names
from hubquant.errors import UserError


def refine(
    recipe: RecipeArgument,
    type: Annotated[str, typer.Option("--type", "-t", help="The file type to refine the importance matrix for.")],
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Tokens of calibration text, growing: 25k,50k,100k.")
    ] = None,
    factor: Annotated[
        float, typer.Option("--factor", min=1.1, help="Without --sizes: by how much each size exceeds the one before.")
    ] = 2.0,
    mixes: Annotated[
        list[str] | None,
        typer.Option("--mixes", help="Calibration texts to race: recipes or lists of sources, by commas. Repeatable."),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option("--confidence", min=0.5, max=0.999, help="How sure a gain must be (default: the recipe's, 0.95)."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The importance matrix (default: beside the recipe).")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the scores over the text as a PNG.")] = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let the calibration text grow until the files get no better, and keep the best importance matrix."""
    from hubquant.api.arguments import read_recipe
    from hubquant.commands.refine import Request, own_path, parse_tokens, read_mix
    from hubquant.commands.refine import refine as prepare
    from hubquant.mix import check_recipe
    from hubquant.recipe import Override

    changed = [] if confidence is None else [Override("evaluate.confidence", confidence, "--confidence")]
    [name, *more] = type_names([type], "--type", named=True)
    if more:
        raise UserError("--type names several types", why="a matrix is refined for one", hint=f"write --type {name}")
    paths = [Path(path.strip()) for text in mixes or [] for path in text.split(",") if path.strip()]
    loaded = check_recipe(read_recipe(recipe, [*changed, *(set or [])]))
    request = Request(
        loaded,
        own_path(recipe),
        name,
        parse_tokens(sizes) if sizes else (),
        factor,
        {path.stem: read_mix(path) for path in paths},
        out,
        plot,
        device,
    )
    finish(
        lambda store, progress: prepare(request, store, progress),
        store,
        dry_run,
        Output(as_json=as_json, quiet=quiet),
        lambda refined: refined.as_dict(),
        str,
    )
