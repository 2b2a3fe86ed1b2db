"""Names of files with settings of their own, as the programs that look for a type in a file's name read them."""

from __future__ import annotations

import re

from hubquant.errors import RecipeError
from hubquant.mix.file_types import ALIASES, FTYPES, is_file_type

CHARACTERS = re.compile(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*")
LONGEST = 64  # characters
# as llama.cpp, Ollama and the Hub find it: what follows the last - of the name, without regard to case
_BEGINNINGS = tuple(f"{name}_" for name in (*FTYPES, *ALIASES))


def is_name(text: str) -> bool:
    """Whether ``text``, which is no type itself, can be the name of a file."""
    return not is_file_type(text) and bool(CHARACTERS.fullmatch(text)) and _is_found(text)


def _is_found(name: str) -> bool:
    token = name.rpartition("-")[2].upper()
    return is_file_type(token) or token.startswith(_BEGINNINGS)


def check_name(name: str, type: str) -> None:
    """Raises ``RecipeError`` for a name by which no program would know a file of ``type``."""
    if not CHARACTERS.fullmatch(name) or len(name) > LONGEST:
        raise RecipeError(
            f"quantize.types: {name[:LONGEST]!r} cannot be the name of a file",
            why=f"names have letters, digits and _, and single - between them; at most {LONGEST} characters",
            hint=f"write name: {type}_L",
        )
    if not _is_found(name):
        raise RecipeError(
            f"quantize.types: {name!r} would not be found by its name",
            why="llama.cpp and the Hub look for the type behind the last -, and this does not begin with one",
            hint=f"write name: {type}_L, or UD-{type}_XL",
        )
    if is_file_type(name) and name.upper() != type:
        raise RecipeError(
            f"quantize.types: {name} is a type of its own, and the file is {type}",
            why="readers would take it for something else",
            hint=f"write name: {type}_L",
        )
