"""What a recipe of somebody else may not do: reach the machine that it runs on, or its user's account."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from hubquant.errors import RecipeError
from hubquant.recipe.names import HUB_PREFIX
from hubquant.recipe.references import is_local
from hubquant.recipe.schema import Recipe

SHOWN = 3


def check_stranger(recipe: Recipe, reference: str, overridden: Sequence[str], given: Collection[str] = ()) -> None:
    """Raise ``RecipeError`` when ``recipe`` names files or folders of this machine, code to run, or a place to publish
    to.

    ``overridden`` are the fields, with dots, that the user sets: they are the user's own. ``given`` are names of files
    that the stranger has brought along.
    """
    sources = {f"{part}.{kind}" for part in ("calibration", "evaluate") for kind in ("sources", "pictures.prompts")}
    own = {"model.file", "publish.card", "imatrix.file", "imatrix.files", *sources}
    found = [
        (field, value)
        for field, value in _reaches(recipe)
        if not _is_overridden(field, overridden) and not (field in own and value in given)
    ]
    if not found:
        return
    named = ", ".join(f"{field} ({value})" for field, value in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise RecipeError(
        f"{reference} cannot be run as it is",
        why=f"it reaches for files, code or an account, which are for you to name: {named}{more}",
        hint=f"give your own: --set {found[0][0]}=…",
    )


def _reaches(recipe: Recipe) -> Iterator[tuple[str, object]]:
    model, publish = recipe.model, recipe.publish
    values = {
        "model.folder": model.folder,
        "model.file": model.file,
        "model.merge": model.merge if model.merge and is_local(model.merge) else None,
        "model.target": model.target if model.target and is_local(model.target) else None,
        "model.allow_pickle": model.allow_pickle,
        "publish.to": publish.to,
        "publish.private": publish.private,
        "publish.gated": publish.gated,
        "publish.i_have_permission": publish.i_have_permission,
        "publish.card": publish.card,
        "publish.branch": publish.branch,
        "publish.create_pr": publish.create_pr,
        "publish.prune": publish.prune,
    }
    yield from ((field, value) for field, value in values.items() if value is not None and value is not False)
    for part in ("calibration", "evaluate"):
        for source in getattr(recipe, part).sources:
            if source.file is not None:
                yield f"{part}.sources", source.file
            if source.plugin is not None:
                yield f"{part}.sources", f"plugin {source.plugin}"
        for prompts in getattr(recipe, part).pictures.prompts:
            if prompts.file is not None:
                yield f"{part}.pictures.prompts", prompts.file
    field = "imatrix.files" if recipe.imatrix.files else "imatrix.file"
    yield from ((field, name) for name in recipe.imatrix.given if not name.startswith(HUB_PREFIX))


def _is_overridden(field: str, overridden: Sequence[str]) -> bool:
    return any(field == path or field.startswith(f"{path}.") for path in map(str.strip, overridden))
