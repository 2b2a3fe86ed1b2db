"""Recipes to start from: those of the repository's folder recipes/, which come with the package."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import hubquant
from hubquant.errors import RecipeError
from hubquant.ui.form import read_form, write_form

NAMES = {
    "ladder": "Every size that people look for",
    "laptop": "Five files for a laptop",
    "low-bit": "As small as possible, with limits on what may be lost",
    "chat-model": "A chat model: calibrated on conversations",
    "moe": "A mixture of experts",
    "own-text": "Your own field: calibrated and measured on your texts",
    "larger-than-memory": "A model larger than memory",
    "reuse-imatrix": "More sizes with a published importance matrix",
    "embeddings": "An embedding model",
}


def example(name: str, model: str) -> str:
    """A recipe for ``model``, published nowhere yet. Raises ``RecipeError``."""
    if name not in NAMES:
        raise RecipeError("there is no such example", hint="choose one of the list")
    text = (_folder() / f"{name}.yaml").read_text("utf-8")
    return write_form(text, replace(read_form(text), model=model, to=""))


def _folder() -> Path:
    packaged = Path(str(resources.files("hubquant"))) / "data" / "gallery"
    return packaged if packaged.is_dir() else Path(hubquant.__file__).parents[1] / "recipes"
