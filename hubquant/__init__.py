"""hubquant: one line takes a Hugging Face model to a published, measured GGUF repository."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hubquant.version import __version__ as __version__

if TYPE_CHECKING:
    from hubquant.api import plan, run
    from hubquant.errors import HubquantError, UserError
    from hubquant.imatrix import ImportanceMatrix, load_imatrix
    from hubquant.recipe import Recipe, load_recipe


__all__ = ["HubquantError", "ImportanceMatrix", "Recipe", "UserError", "load_imatrix", "load_recipe", "plan", "run"]

_HOMES = {
    "HubquantError": "hubquant.errors",
    "ImportanceMatrix": "hubquant.imatrix",
    "Recipe": "hubquant.recipe",
    "UserError": "hubquant.errors",
    "load_imatrix": "hubquant.imatrix",
    "load_recipe": "hubquant.recipe",
    "plan": "hubquant.api",
    "run": "hubquant.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hubquant' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
