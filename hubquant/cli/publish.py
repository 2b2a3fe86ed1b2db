"""``hubquant publish``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hubquant.cli.output import JsonOption, Output, QuietOption
from hubquant.cli.pushing import (
    BranchOption,
    CreatePrOption,
    MessageOption,
    PermissionOption,
    PruneOption,
    publish_fields,
)
from hubquant.errors import UserError
from hubquant.units import counted


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of a run.")],
    to: Annotated[str, typer.Option("--to", help="The Hub repository, such as me/Qwen3-0.6B-GGUF.")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    branch: BranchOption = None,
    create_pr: CreatePrOption = False,
    commit_message: MessageOption = None,
    prune: PruneOption = False,
    i_have_permission: PermissionOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be uploaded and stop.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Upload what a run made in a folder: files first, the card last. What is there already is not sent again."""
    from hubquant.commands.publish import folder_to_publish
    from hubquant.commands.publish import publish as publish_folder
    from hubquant.recipe import parse_recipe

    output = Output(as_json=as_json, quiet=quiet)
    fields = publish_fields(branch, create_pr, commit_message, prune, i_have_permission)
    settings = parse_recipe({"model": {"bundled": "demo"}, "publish": {"to": to, "private": private, **fields}}).publish
    if Path(to).is_dir() and not folder.exists():
        raise UserError(f"there is no folder {folder}", hint=f"hubquant publish {to} --to {folder}")
    if dry_run:
        from hubquant.hub.push import check_id

        names = list(folder_to_publish(folder, settings).publishable())
        check_id(to)
        output.data({"to": to, "uploads": names}, "\n".join([f"would upload to {to}:", *names]))
        return
    pushed = publish_folder(folder, settings, output.progress())
    output.data(asdict(pushed), f"{pushed.url}  {counted(len(pushed.uploaded), 'file')} uploaded")
