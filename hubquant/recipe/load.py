"""From what a user types to a ``Recipe``: a path, a packaged name, a model, or ``hub:org/repo``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hubquant.disk import user_path
from hubquant.errors import RecipeError
from hubquant.plain_yaml import load_yaml
from hubquant.recipe.schema import HUB_ID, HUB_PREFIX, Recipe
from hubquant.recipe.trust import check_stranger

LARGEST_RECIPE = 1 << 20  # bytes; a recipe is a page, anything larger is a mistake
MOST_TOKENS = 20_000  # keys, values and punctuation
GGUF = ".gguf"
PACKAGED = ("quickstart", "default")


def load_recipe(reference: str, overrides: Sequence[str] = (), *, fetch: Callable[[str], Path] | None = None) -> Recipe:
    """The recipe that ``reference`` names, with ``key.path=value`` overrides applied before it is checked.

    ``fetch`` downloads the ``recipe.yaml`` of a Hub repository; it is needed for ``hub:org/repo`` only.
    """
    data = _read(reference, fetch)
    if reference.startswith(HUB_PREFIX):
        data = _of_a_stranger(data, reference, overrides)
    for override in overrides:
        _apply_override(data, override)
    return parse_recipe(data, reference)


def parse_recipe(data: Any, origin: str = "recipe") -> Recipe:
    """Validate plain data. Raises ``RecipeError`` with the first problem and the nearest valid name."""
    if not isinstance(data, dict):
        raise RecipeError(f"{origin} is not a recipe", why="a recipe is a mapping of keys to values")
    data = dict(data)
    if isinstance(data.get("model"), str):
        data["model"] = model_reference(data["model"])
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise _explain(error, origin) from None


def model_reference(text: str) -> dict[str, str]:
    """``org/name`` is a Hub id; what ends with .gguf is a file; what exists here or looks like a path is a folder."""
    if text.endswith(GGUF):
        return {"file": text}
    if os.path.exists(user_path(text)) or text.startswith((".", "/", "~")):
        return {"folder": text}
    return {"id": text}


def dump_recipe(recipe: Recipe) -> str:
    """The YAML that is published beside the files: only what differs from the defaults, in the schema's order."""
    data = {"version": recipe.version, **recipe.model_dump(mode="json", exclude_defaults=True)}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _read(reference: str, fetch: Callable[[str], Path] | None) -> Any:
    if reference in PACKAGED:
        packaged = resources.files("hubquant") / "data" / "recipes" / f"{reference}.yaml"
        return _parse_yaml(packaged.read_text("utf-8"), reference)
    if reference.startswith(HUB_PREFIX):
        repository = reference.removeprefix(HUB_PREFIX)
        if fetch is None or not HUB_ID.fullmatch(repository):
            raise RecipeError(f"{reference} is not a Hub repository", hint="write hub:org/name")
        return _parse_file(fetch(repository))
    if reference.endswith((".yaml", ".yml")):
        return _parse_file(user_path(reference))
    if os.path.isdir(user_path(reference)) or reference.endswith(GGUF) or HUB_ID.fullmatch(reference):
        return {"model": model_reference(reference)}
    raise RecipeError(
        f"{reference!r} is no recipe and no model",
        why="it is not a .yaml or .gguf file, a folder, a Hub id such as Qwen/Qwen3-0.6B, or one of "
        + ", ".join(PACKAGED),
        hint="check the spelling, or try: hubquant run quickstart",
    )


def _parse_file(path: Path) -> Any:
    try:
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
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return load_yaml(text, most_tokens=MOST_TOKENS)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error)
        raise RecipeError(f"{origin}{where} is not YAML that a recipe is written in", why=why) from None


def _of_a_stranger(data: Any, reference: str, overrides: Sequence[str]) -> Any:
    """Checked by itself, as it will be understood: what the user overrides is the user's own."""
    if isinstance(data, dict) and isinstance(data.get("model"), str):
        data = {**data, "model": {"id": data["model"]}}  # whatever lies here under that name
    check_stranger(parse_recipe(data, reference), reference, [override.partition("=")[0] for override in overrides])
    return data


def _apply_override(data: Any, override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override!r} is not an override", hint="write --set quantize.mode=exact")
    place = data
    for position, key in enumerate(keys[:-1]):
        if isinstance(place, dict) and key == "model" and isinstance(place.get("model"), str):
            place["model"] = model_reference(place["model"])
        place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise RecipeError(f"--set {override!r}", why=f"{'.'.join(keys[: position + 1])} has no keys below it")
    place[keys[-1]] = _parse_yaml(value, f"--set {path}")


def _explain(error: ValidationError, origin: str) -> RecipeError:
    problem = error.errors()[0]
    more = error.error_count() - 1
    location = ".".join(str(part) for part in problem["loc"]) or "recipe"
    rest = f" (and {more} more)" if more else ""
    if problem["type"] == "extra_forbidden":
        valid = _valid_names(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"valid here: {', '.join(valid)}"
        return RecipeError(f"{origin}: unknown key {location}{rest}", hint=hint)
    if problem["type"] == "missing":
        return RecipeError(f"{origin}: {location} is missing{rest}", hint=f"add it, or pass --set {location}=…")
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) else f", not {problem['input']!r}"
    return RecipeError(f"{origin}: {location}{rest}", why=message[:1].lower() + message[1:] + given)


def _valid_names(location: Sequence[str | int]) -> list[str]:
    """The field names of the model that stands at ``location``."""
    model: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _nested_model(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in getattr(annotation, "__args__", ()) if (m := _nested_model(a))), None)
