"""``hubquant store``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubquant.cli.job import DryRunOption, StoreOption
from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.usage import Command, Group
from hubquant.printable import plain
from hubquant.units import duration, size

if TYPE_CHECKING:
    from hubquant.engine.store import Kept

app = typer.Typer(cls=Group, help="List and remove what was made and is kept to be used again.", rich_markup_mode=None)


@app.command("list", cls=Command)
def list_kept(store: StoreOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List matrices, baselines, files and measurements, those used last first."""
    from hubquant.engine.store import Store

    opened = Store(store)
    kept = opened.kept()
    total = f"{size(sum(each.size for each in kept))} in {plain(str(opened.root))}"
    if not opened.root.exists():
        total = f"nothing is kept yet: there is no folder {plain(str(opened.root))}"
    Output(as_json=as_json, quiet=quiet).data(
        [_as_dict(each) for each in kept], lambda: "\n".join([*map(_line, kept), *([""] if kept else []), total])
    )


@app.command(cls=Command)
def prune(
    older: Annotated[str | None, typer.Option("--older", help="What was not used for so long: 30d, 12h.")] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="What was used least recently of all above so much: 50GB.")
    ] = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove what is kept. Finished folders stay as they are, and so does what a running process needs."""
    from hubquant.commands.flags import parse_age
    from hubquant.commands.store import prune as prune_store
    from hubquant.engine.store import Store
    from hubquant.recipe.sizes import parse_size

    removed = prune_store(
        Store(store),
        None if older is None else parse_age(older),
        None if max_size is None else parse_size(max_size, "--max-size"),
        dry_run=dry_run,
    )
    done = "would be freed" if dry_run else "freed"
    Output(as_json=as_json, quiet=quiet).data(
        [_as_dict(each) for each in removed],
        lambda: "\n".join([*map(_line, removed), f"{size(sum(each.size for each in removed))} {done}"]),
    )


def _as_dict(each: Kept) -> dict[str, Any]:
    return {"path": str(each.path), "kind": each.kind, "size": each.size, "used": each.used}


def _line(each: Kept) -> str:
    age = duration(max(1, time.time() - each.used))
    return f"{size(each.size):>8}  {each.kind:<19}  {each.path.name[-24:]}  {age} ago"
