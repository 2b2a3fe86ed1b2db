"""How something is published: options that commands have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hubquant.recipe import Override

BranchOption = Annotated[
    str | None, typer.Option("--branch", help="Publish to this branch, made of main if it is not there.")
]
CreatePrOption = Annotated[
    bool, typer.Option("--create-pr", help="Publish as a pull request; your open one of that title is added to.")
]
MessageOption = Annotated[
    str | None, typer.Option("--commit-message", help="The title of the commit, or of the pull request.")
]
PruneOption = Annotated[
    bool,
    typer.Option("--prune", help="Remove published files that hubquant made of types no longer asked for."),
]
PermissionOption = Annotated[
    bool,
    typer.Option("--i-have-permission", help="Publish against a licence without derivatives: the authors allow it."),
]


def publish_fields(
    branch: str | None, create_pr: bool, message: str | None, prune: bool, i_have_permission: bool = False
) -> dict[str, Any]:
    """Those that were given, as ``publish`` of a recipe has them."""
    given = {
        "branch": branch,
        "create_pr": create_pr,
        "commit_message": message,
        "prune": prune,
        "i_have_permission": i_have_permission,
    }
    return {name: value for name, value in given.items() if value}


def overrides(
    branch: str | None, create_pr: bool, message: str | None, prune: bool, i_have_permission: bool = False
) -> list[Override]:
    from hubquant.recipe import Override

    fields = publish_fields(branch, create_pr, message, prune, i_have_permission)
    return [Override(f"publish.{name}", value, f"--{name.replace('_', '-')}") for name, value in fields.items()]
