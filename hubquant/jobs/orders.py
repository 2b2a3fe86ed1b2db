"""From what somebody asks for to what a job is to do."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hubquant.disk import user_path, without_folders
from hubquant.errors import UserError
from hubquant.jobs.job import Order, OrderedModel
from hubquant.jobs.models import DEMO, NamedModel, check_repository, named_model, path_of
from hubquant.mix import check_recipe
from hubquant.recipe.load import parse_recipe
from hubquant.recipe.names import HUB_ID
from hubquant.recipe.public import with_files
from hubquant.recipe.schema import ModelReference, Recipe
from hubquant.recipe.trust import check_stranger

_HUB = "hf://"
_OWN = tuple(
    f"publish.{field}" for field in ("to", "private", "gated", "i_have_permission", "branch", "create_pr", "prune")
)
"""Fields that reach for an account on the Hub: who asks does so with a token of his own."""


def order(
    recipe: Recipe | Mapping[str, Any],
    models: Sequence[NamedModel] = (),
    uploads: Collection[str] = (),
    *,
    stranger: bool,
) -> Order:
    """``recipe`` for its own model or, where ``models`` are given, for each of these, published where they say.

    Raises a ``UserError``. A ``stranger`` names models of the Hub, and no file of this machine but his ``uploads``.
    """
    data = recipe.model_dump(mode="json", exclude_defaults=True) if isinstance(recipe, Recipe) else dict(recipe)
    if models:
        data["model"] = DEMO
    elif isinstance(data.get("model"), str):
        data["model"] = _named(data["model"], stranger=stranger).model_dump(exclude_defaults=True)
    parsed = check_recipe(parse_recipe(data))
    if models:
        if parsed.publish.to is not None:
            hint = "leave publish.to out, and name a repository with each model"
            raise UserError(f"every model would be published to {parsed.publish.to}", hint=hint)
        found = [(_named(each.model, stranger=stranger), each.to) for each in models]
    else:
        found = [(parsed.model, parsed.publish.to)]
    if stranger:
        for reference, _ in found:
            check_stranger(parsed.model_copy(update={"model": reference}), "this recipe", _OWN, uploads)
    _check_places([(reference.display_name, to) for reference, to in found])
    if not stranger:  # the process that does the work may begin in another folder

        def absolute(name: str) -> str:
            return name if name in uploads else os.path.abspath(user_path(name))

        parsed = with_files(parsed, absolute)
        found = [(with_files(parsed.model_copy(update={"model": model}), absolute).model, to) for model, to in found]
    folders = _folders([reference for reference, _ in found])
    ordered = [
        OrderedModel(model=reference, name=reference.display_name, folder=folder, to=to)
        for (reference, to), folder in zip(found, folders, strict=True)
    ]
    return Order(recipe=parsed, models=tuple(ordered), uploads=tuple(uploads))


def _named(text: str, *, stranger: bool) -> ModelReference:
    """For a stranger what lies on this machine under that name is not there."""
    plain = text.partition("@")[0].rstrip("/")
    return named_model(_HUB + text if stranger and text != "demo" and HUB_ID.fullmatch(plain) else text)


def _check_places(places: Sequence[tuple[str, str | None]]) -> None:
    taken: dict[str, str] = {}
    for name, to in places:
        if to is None:
            continue
        check_repository(name, to, "name one like me/NAME-GGUF")
        if to in taken:
            hint = "name a repository for each"
            raise UserError(f"{taken[to]} and {name} would both be published to {to}", hint=hint)
        taken[to] = name


def _folders(references: Sequence[ModelReference]) -> list[str]:
    names: list[str] = []
    for reference in references:
        name = f"{without_folders(path_of(reference)) or 'model'}-GGUF"
        names.append(name if name not in names else f"{len(names) + 1}-{name}")
    return names
