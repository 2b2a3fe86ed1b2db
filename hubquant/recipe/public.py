"""The recipe as it is published: without places of the machine it ran on, and what somebody needs to run it again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hubquant.disk import without_folders
from hubquant.recipe.names import HUB_ID, HUB_PREFIX
from hubquant.recipe.references import is_local
from hubquant.recipe.schema import Frozen, ModelReference, Publish, Recipe, name_of

IMATRIX = "imatrix.gguf"
OF_THE_FILES = ("shard_size", "base_model", "name", "quantized_by", "repo_url", "layout")
"""What is published of ``publish``."""


def public_recipe(recipe: Recipe, model: ModelReference | None) -> Recipe:
    """Files and folders by their names alone; ``model`` pins the model where it is on the Hub. Given importance
    matrices of this machine are the one that lies beside the recipe."""
    recipe = _with_paths(_pinned(recipe, model), _Names().of)
    if all(reference.startswith(HUB_PREFIX) for reference in recipe.imatrix.given):
        return recipe
    return recipe.model_copy(update={"imatrix": recipe.imatrix.model_copy(update={"file": IMATRIX, "files": ()})})


def local_recipe(recipe: Recipe, model: ModelReference | None) -> Recipe:
    """What runs on this machine from any folder."""
    pinned = _pinned(recipe, model)
    publish = pinned.publish.model_copy(update={"card": recipe.publish.card})
    return with_files(pinned.model_copy(update={"publish": publish}), _absolute)


def with_files(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    """With another name for every file and folder of this machine."""
    recipe = _with_paths(recipe, change)
    matrices = [name if name.startswith(HUB_PREFIX) else change(name) for name in recipe.imatrix.given]
    update = {"files": tuple(matrices)} if recipe.imatrix.files else {"file": next(iter(matrices), None)}
    card = change(recipe.publish.card) if recipe.publish.card else None
    publish = recipe.publish.model_copy(update={"card": card})
    return recipe.model_copy(update={"imatrix": recipe.imatrix.model_copy(update=update), "publish": publish})


def _pinned(recipe: Recipe, model: ModelReference | None) -> Recipe:
    publish = Publish(**{field: getattr(recipe.publish, field) for field in OF_THE_FILES})
    return recipe.model_copy(update={"model": model or recipe.model, "publish": publish})


def _with_paths(recipe: Recipe, change: Callable[[str], str]) -> Recipe:
    def of(settings: Frozen, *fields: str) -> Any:
        found = {field: getattr(settings, field) for field in fields}
        return settings.model_copy(update={field: change(path) for field, path in found.items() if path})

    bases = [name for name in ("merge", "target") if (base := getattr(recipe.model, name)) and is_local(base)]
    changed: dict[str, Any] = {"model": of(recipe.model, "folder", "file", *bases)}
    for part in ("calibration", "evaluate"):
        settings = getattr(recipe, part)
        sources = tuple(of(source, "file", "plugin") for source in settings.sources)
        prompts = tuple(of(source, "file") for source in settings.pictures.prompts)
        pictures = settings.pictures.model_copy(update={"prompts": prompts})
        changed[part] = settings.model_copy(update={"sources": sources, "pictures": pictures})
    return recipe.model_copy(update=changed)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def placed(recipe: Recipe, types: Sequence[str], to: str | None) -> Recipe:
    """The recipe for all ``types``, which are names of files; the matrix beside a public one is that of the repository
    ``to``."""
    changed: dict[str, Any] = {}
    if types:
        ordered = [
            *(entry for entry in recipe.quantize.types if name_of(entry) in types),
            *(name for name in types if name not in recipe.quantize.names),
        ]
        changed["quantize"] = recipe.quantize.model_copy(update={"types": tuple(ordered)})
    if to and recipe.imatrix.file == IMATRIX:
        changed["imatrix"] = recipe.imatrix.model_copy(update={"file": f"{HUB_PREFIX}{to}/{IMATRIX}"})
    return recipe.model_copy(update=changed)


def needed_files(recipe: Recipe) -> tuple[str, ...]:
    """What a public recipe needs to have in the current folder."""
    sources = [*recipe.calibration.sources, *recipe.evaluate.sources]
    texts = [each.file or each.plugin_parts[0] for source in sources for each in source.by_language.values()]
    matrices = [name for name in recipe.imatrix.given if not name.startswith(HUB_PREFIX)]
    drawn = [*recipe.calibration.pictures.prompts, *recipe.evaluate.pictures.prompts]
    prompts = [source.file for source in drawn]
    bases = [base for base in (recipe.model.merge, recipe.model.target) if base and is_local(base)]
    named = [recipe.model.folder, recipe.model.file, *bases, *texts, *prompts, *matrices]
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

    def of(self, path: str) -> str:
        first = without_folders(_absolute(path))
        name, number = first, 1
        while self._paths.setdefault(name, path) != path:
            number += 1
            name = f"{number}-{first}"
        return name
