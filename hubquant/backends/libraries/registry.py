"""The libraries by name, and what of them an entry of a recipe names."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from hubquant.backends.libraries.library import LibraryBackend
from hubquant.errors import RecipeError
from hubquant.recipe.backends import GGUF, LIBRARIES


def library(name: str) -> LibraryBackend:
    """Raises ``RecipeError`` for a name that is none."""
    if name not in LIBRARIES:
        near = get_close_matches(name, (GGUF, *LIBRARIES), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join((GGUF, *LIBRARIES))}"
        raise RecipeError(f"there is no backend {name!r}", hint=hint)
    found: LibraryBackend = getattr(import_module(f"hubquant.backends.libraries.{name}"), name.capitalize())()
    return found


def named(entry: str) -> tuple[LibraryBackend, str]:
    """The backend and the type of ``backend:type``. Raises ``RecipeError`` for one that is none."""
    name, _, type = entry.partition(":")
    backend = library(name)
    if type not in backend.types:
        near = get_close_matches(type, backend.types, 1)
        hint = f"did you mean {name}:{near[0]}?" if near else f"it has {', '.join(backend.types)}"
        raise RecipeError(f"{name} has no type {type!r}", hint=hint)
    return backend, type
