"""What the public functions have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.bars import Bars, shown
from hubquant.errors import UserError
from hubquant.recipe import Override, Recipe, load_recipe, override_recipe

if TYPE_CHECKING:
    from hubquant.engine.progress import Progress
    from hubquant.engine.store import Store

RECIPE_FILE = "recipe.yaml"

Overrides = str | Sequence[str | Override] | Mapping[str, Any]
Names = str | Path | Sequence[str | Path]
Offload = Literal["auto", "none", "cpu", "disk", "stream"]
Way = Literal["auto", "stored", "streamed"]
Types = str | Sequence[str | Mapping[str, Any]]
"""Types of llama-quantize, or named ones such as {"name": "Q4_K_L", "type": "Q4_K_M", "output_tensor": "Q8_0"}."""


@contextmanager
def quietly(progress: Bars) -> Iterator[Progress]:
    """While work is done, its own progress is all that is seen. What is heavy to import is to be imported inside."""
    seen = shown(progress)
    from hubquant.models.load import quiet

    with quiet():
        yield seen


def read_recipe(recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Overrides) -> Recipe:
    """Whatever stands for a recipe, with ``overrides``. Raises ``RecipeError``."""
    if isinstance(recipe, Recipe | Mapping):
        return override_recipe(recipe, as_overrides(overrides))
    return load_recipe(recipe, as_overrides(overrides), fetch=_fetch_recipe)


def _fetch_recipe(repository: str) -> Path:
    from hubquant.hub.pull import fetch_file

    return fetch_file(repository, RECIPE_FILE)


def checked(changed: Mapping[str, tuple[str, Any]]) -> Recipe:
    """Arguments as fields of a recipe, whose model is not the one that is meant. Raises ``UserError``."""
    return override_recipe({"model": {"bundled": "demo"}}, given_fields(changed))


def given_fields(changed: Mapping[str, tuple[str, Any]]) -> list[Override]:
    """By argument, the field of the recipe that it is and the value; None where it is not given."""
    return [Override(field, value, name) for name, (field, value) in changed.items() if value is not None]


def as_overrides(overrides: Overrides) -> Sequence[str | Override]:
    if isinstance(overrides, Mapping):
        return [Override(field, value, field) for field, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else overrides


def listed(names: Names) -> list[str]:
    return [str(name) for name in ([names] if isinstance(names, str | Path) else names)]


def check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}, not {value}")


def listed_types(types: Types) -> list[Any]:
    """A text holds them as the command line has them, between commas."""
    return [name for part in types.split(",") if (name := part.strip())] if isinstance(types, str) else list(types)


def open_store(root: Path | str | None) -> Store:
    from hubquant.engine.store import Store

    return Store(None if root is None else Path(root))
