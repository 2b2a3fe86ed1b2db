"""From what a user types to a ``Recipe``: a path, a packaged name, a model, or ``hub:org/repo``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from hubquant.disk import check_ends, user_path
from hubquant.errors import RecipeError
from hubquant.plain_yaml import load_yaml
from hubquant.recipe.explain import explain, is_plain_list
from hubquant.recipe.names import HUB_ID, HUB_PREFIX
from hubquant.recipe.references import is_model, model_reference
from hubquant.recipe.schema import Recipe
from hubquant.recipe.trust import check_stranger

LARGEST_RECIPE = 1 << 20  # bytes; a recipe is a page, anything larger is a mistake
MOST_TOKENS = 20_000  # keys, values and punctuation
TYPES = "quantize.types"
PACKAGED = ("quickstart", "quickstart-diffusion", "default")


@dataclass(frozen=True)
class Override:
    """Plain data for the field at ``path``, with dots; ``typed`` is what the user said it with."""

    path: str
    value: Any
    typed: str


def load_recipe(
    reference: str | os.PathLike[str],
    overrides: Sequence[str | Override] = (),
    *,
    fetch: Callable[[str], Path] | None = None,
) -> Recipe:
    """The recipe that ``reference`` names, with ``key.path=value`` overrides applied before it is checked.

    ``fetch`` downloads the ``recipe.yaml`` of a Hub repository; it is needed for ``hub:org/repo`` only.
    """
    reference, given = os.fspath(reference), list(map(_override, overrides))
    data = _read(reference, fetch)
    if reference.startswith(HUB_PREFIX):
        data = _of_a_stranger(data, reference, given)
    return _overridden(data, reference, given)


def matrices_instead(references: Sequence[str], typed: str) -> list[Override]:
    """Importance matrices in the place of the recipe's own, whatever that is; ``typed`` is how the user has said so."""
    one = len(references) == 1
    fields = {"file": references[0] if one else None, "files": [] if one else list(references), "skip": False}
    return [Override(f"imatrix.{field}", value, typed) for field, value in fields.items()]


def override_recipe(recipe: Recipe | Mapping[str, Any], overrides: Sequence[str | Override]) -> Recipe:
    """``recipe``, which may be plain data, with other values for some of its fields. Raises ``RecipeError``."""
    if isinstance(recipe, Recipe):
        if not overrides:
            return recipe
        data = {"model": {}, **recipe.model_dump(mode="json", exclude_defaults=True)}
    else:
        data = deepcopy(dict(recipe))
    return _overridden(data, "recipe", list(map(_override, overrides)))


def _overridden(data: Any, origin: str, overrides: Sequence[Override]) -> Recipe:
    for override in overrides:
        _apply_override(data, _with_named_types(data, override))
    return parse_recipe(data, origin, {override.path: override.typed for override in overrides})


def parse_recipe(data: Any, origin: str = "recipe", typed: Mapping[str, str] = MappingProxyType({})) -> Recipe:
    """Validate plain data. Raises ``RecipeError`` with the first problem and the nearest valid name.

    ``typed`` is, by field, how the user has overridden it.
    """
    if not isinstance(data, dict):
        raise RecipeError(f"{origin} is not a recipe", why="a recipe is a mapping of keys to values")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, origin, typed) from None


def dump_recipe(recipe: Recipe) -> str:
    """The YAML that is published beside the files: only what differs from the defaults, in the schema's order."""
    data = {"version": recipe.version, **recipe.model_dump(mode="json", exclude_defaults=True)}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _read(reference: str, fetch: Callable[[str], Path] | None) -> Any:
    if reference in PACKAGED:
        packaged = resources.files("hubquant") / "data" / "recipes" / f"{reference}.yaml"
        return parse_yaml(packaged.read_text("utf-8"), reference)
    if reference.startswith(HUB_PREFIX):
        repository = reference.removeprefix(HUB_PREFIX)
        if fetch is None or not HUB_ID.fullmatch(repository):
            raise RecipeError(f"{reference} is not a Hub repository", hint="write hub:org/name")
        return read_yaml(fetch(repository))
    if reference.endswith((".yaml", ".yml")):
        return read_yaml(user_path(reference))
    if not os.path.exists(user_path(reference)) and (near := difflib.get_close_matches(reference, PACKAGED, 1, 0.8)):
        raise RecipeError(
            f"there is no {reference}", hint=f"did you mean {near[0]}? a Hub model of that name is hf://{reference}"
        )
    if is_model(reference):
        return {"model": model_reference(reference)}
    raise RecipeError(
        f"{reference!r} is no recipe and no model",
        why="it is not a .yaml or .gguf file, a folder, a Hub id such as Qwen/Qwen3-0.6B, or one of "
        + ", ".join(PACKAGED),
        hint="check the spelling, or try: hubquant run quickstart",
    )


def read_yaml(path: Path) -> Any:
    """Plain data of a recipe, or of a part of one. Raises ``RecipeError``."""
    try:
        check_ends(path)
        if path.stat().st_size > LARGEST_RECIPE:
            raise RecipeError(f"{path} is too large for a recipe", why=f"it has {path.stat().st_size} bytes")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {path}", hint="check the path, or try: hubquant run quickstart"
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8", why=str(error)) from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read", why=error.strerror) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> Any:
    """Plain data. Raises ``RecipeError``."""
    try:
        return load_yaml(text, most_tokens=MOST_TOKENS)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error)
        what = f"{origin}{where} is not YAML that a recipe is written in"
        raise RecipeError(what, why=why, hint="mend it there: a line is like  types: [Q8_0, Q4_K_M]") from None


def _of_a_stranger(data: Any, reference: str, overrides: Sequence[Override]) -> Any:
    """Checked by itself, as it will be understood: what the user overrides is the user's own."""
    if isinstance(data, dict) and isinstance(data.get("model"), str):
        data = {**data, "model": {"id": data["model"]}}  # whatever lies here under that name
    check_stranger(parse_recipe(data, reference), reference, [override.path for override in overrides])
    return data


def _override(given: str | Override) -> Override:
    if isinstance(given, Override):
        return given
    path, equals, value = given.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise RecipeError(f"--set {given!r} is not an override", hint="write --set quantize.mode=exact")
    path = ".".join(keys)
    parsed = parse_yaml(value, f"--set {path}")
    if isinstance(parsed, str) and is_plain_list(path):  # pydantic reads the numbers
        parsed = [part.strip() for part in parsed.split(",") if part.strip()]
    return Override(path, parsed, f"--set {path}")


def _with_named_types(data: Any, override: Override) -> Override:
    """A type that the recipe gives a name and settings is chosen by that name."""
    types = data.get("quantize", {}) if isinstance(data, dict) else {}
    types = types.get("types") if isinstance(types, dict) else None
    if override.path != TYPES or not isinstance(override.value, list) or not isinstance(types, list):
        return override
    named = {str(entry.get("name")).lower(): entry for entry in types if isinstance(entry, dict)}
    chosen = [named.get(each.lower(), each) if isinstance(each, str) else each for each in override.value]
    return replace(override, value=chosen)


def _apply_override(data: Any, override: Override) -> None:
    keys = override.path.split(".")
    place = data
    for position, key in enumerate(keys[:-1]):
        if isinstance(place, dict) and key == "model" and isinstance(place.get("model"), str):
            place["model"] = model_reference(place["model"])
        place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise RecipeError(override.typed, why=f"{'.'.join(keys[: position + 1])} has no keys below it")
    place[keys[-1]] = override.value
