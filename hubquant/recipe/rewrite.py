"""Name an importance matrix in a recipe of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hubquant.disk import write_at_once
from hubquant.errors import OutputError, RecipeError
from hubquant.recipe.load import dump_recipe, parse_yaml
from hubquant.recipe.schema import Recipe

MARK = "# Made by hubquant refine\n"


def name_matrix(path: Path | None, recipe: Recipe, matrix: str, beside: Path) -> Path:
    """Have the recipe at ``path`` use ``matrix``, and return where it stands. One that says nothing of a matrix gets a
    line more, and keeps every other one; otherwise, or where there is no ``path``, ``recipe`` is written to ``beside``.

    Raises ``OutputError`` where ``beside`` is a file that was not made so.
    """
    if path is not None and (text := _with_matrix(path.read_text("utf-8"), matrix)) is not None:
        if text != path.read_text("utf-8"):
            write_at_once(path, text.encode())
        return path
    check_beside(beside)
    settings = recipe.imatrix.model_copy(update={"file": matrix, "files": (), "skip": False})
    write_at_once(beside, (MARK + dump_recipe(recipe.model_copy(update={"imatrix": settings}))).encode())
    return beside


def check_beside(beside: Path) -> None:
    """Raise ``OutputError`` for a file that is somebody's."""
    if beside.exists() and not (beside.is_file() and beside.read_bytes().startswith(MARK.encode())):
        raise OutputError(
            f"{beside} is not one of hubquant's", why="only such a recipe is replaced", hint="move it away"
        )


def _with_matrix(text: str, matrix: str) -> str | None:
    """None where a line more would not say just that."""
    before = _parsed(text)
    if not isinstance(before, dict):
        return None
    wanted = {"file": matrix}
    if before.get("imatrix") == wanted:
        return text
    line = f"imatrix: {yaml.safe_dump(wanted, default_flow_style=True, width=1 << 20, allow_unicode=True)}"
    after = f"{text.rstrip()}\n{line}"
    return after if "imatrix" not in before and _parsed(after) == {**before, "imatrix": wanted} else None


def _parsed(text: str) -> Any:
    try:
        return parse_yaml(text, "recipe")
    except RecipeError:
        return None
