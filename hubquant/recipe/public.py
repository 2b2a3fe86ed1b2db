"""The recipe as it is published: without places of the machine it ran on, and what somebody needs to run it again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from hubquant.disk import without_folders
from hubquant.recipe.schema import HUB_ID, HUB_PREFIX, ModelReference, Publish, Recipe

IMATRIX = "imatrix.gguf"


def public_recipe(recipe: Recipe, model: ModelReference | None) -> Recipe:
    """Files and folders by their names alone; ``model`` pins the model where it is on the Hub. Given importance
    matrices of this machine are the one that lies beside the recipe."""
    names = _Names()
    reference = recipe.model
    changed: dict[str, Any] = {
        "model": model
        if model
        else reference.model_copy(update={"folder": names.of(reference.folder), "file": names.of(reference.file)}),
        "publish": Publish(shard_size=recipe.publish.shard_size, base_model=recipe.publish.base_model),
    }
    for part in ("calibration", "evaluate"):
        settings = getattr(recipe, part)
        sources = tuple(source.model_copy(update={"file": names.of(source.file)}) for source in settings.sources)
        changed[part] = settings.model_copy(update={"sources": sources})
    if not all(reference.startswith(HUB_PREFIX) for reference in recipe.imatrix.given):
        changed["imatrix"] = recipe.imatrix.model_copy(update={"file": IMATRIX, "files": ()})
    return recipe.model_copy(update=changed)


def placed(recipe: Recipe, types: Sequence[str], to: str | None) -> Recipe:
    """A public recipe for all ``types``, whose matrix is that of the repository ``to``."""
    changed: dict[str, Any] = {}
    if types:
        ordered = [
            *(t for t in recipe.quantize.types if t in types),
            *(t for t in types if t not in recipe.quantize.types),
        ]
        changed["quantize"] = recipe.quantize.model_copy(update={"types": tuple(ordered)})
    if to and recipe.imatrix.file == IMATRIX:
        changed["imatrix"] = recipe.imatrix.model_copy(update={"file": f"{HUB_PREFIX}{to}/{IMATRIX}"})
    return recipe.model_copy(update=changed)


def needed_files(recipe: Recipe) -> tuple[str, ...]:
    """What a public recipe needs to have in the current folder."""
    texts = [s.file for part in (recipe.calibration, recipe.evaluate) for s in part.sources]
    matrices = [name for name in recipe.imatrix.given if not name.startswith(HUB_PREFIX)]
    named = [recipe.model.folder, recipe.model.file, *texts, *matrices]
    return tuple(dict.fromkeys(name for name in named if name))


def base_models(recipe: Recipe, id: str | None, card: Mapping[str, Any]) -> tuple[str, ...]:
    """What the card calls the base model: what the recipe says, the model itself where it is on the Hub, or else what
    its own card says. Only ids of the Hub: a card may hold paths of its author's machine."""
    if own := recipe.publish.base_model or id:
        return (own,)
    said = card.get("base_model")
    names = said if isinstance(said, list) else [said]
    return tuple(name for name in names if isinstance(name, str) and HUB_ID.fullmatch(name))


class _Names:
    """One name for each path."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}

    def of(self, path: str | None) -> str | None:
        if path is None:
            return None
        first = without_folders(os.path.abspath(os.path.expanduser(path)))
        name, number = first, 1
        while self._paths.setdefault(name, path) != path:
            number += 1
            name = f"{number}-{first}"
        return name
