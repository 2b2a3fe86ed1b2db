"""The libraries by name, and what of them an entry of a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module

from hubquant.backends.library import LibraryBackend
from hubquant.errors import RecipeError

_CLASSES: Mapping[str, str] = {
    "bitsandbytes": "Bitsandbytes",
    "quanto": "Quanto",
    "torchao": "Torchao",
    "nncf": "Nncf",
    "sdnq": "Sdnq",
}
NAMES = tuple(_CLASSES)


def library(name: str) -> LibraryBackend:
    """Raises ``RecipeError`` for a name that is none."""
    if name not in _CLASSES:
        near = get_close_matches(name, [*NAMES, "gguf"], 1)
        hint = f"did you mean {near[0]}?" if near else f"there are gguf, {', '.join(NAMES)}"
        raise RecipeError(f"there is no backend {name!r}", hint=hint)
    found: LibraryBackend = getattr(import_module(f"hubquant.backends.{name}"), _CLASSES[name])()
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
