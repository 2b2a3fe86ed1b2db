"""What a terminal is given: names of files and of the Hub, without characters that would do something there."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping
from typing import Any

from hubquant.printable import escaped, plain

LONGEST_WORD = 240  # characters of a path or a value that is repeated in a message
LONGEST_MESSAGE = 2000

PLAINER = "hubquant.plainer"  # the error handler of streams that cannot encode everything
_SPELLED = {
    "±": "+-",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "…": "...",
    "–": "-",
    "—": "-",
    "μ": "u",
    "σ": "s",
    "Σ": "sum",
    "Δ": "d",
    "²": "^2",
}


def message(text: str) -> str:
    """As ``plain``, and words and sentences that no one would read are cut."""
    words = plain(" ".join(text.splitlines())).split(" ")
    return _cut(" ".join(_cut(word, LONGEST_WORD) for word in words), LONGEST_MESSAGE)


def table(text: str) -> str:
    """As ``plain``, line by line."""
    return "\n".join(map(plain, text.split("\n")))


def finite(value: Any) -> Any:
    """Plain data for JSON, which has no NaN and no infinity: they become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end]}…{text[-end:]}"


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """For ``codecs``: what the encoding of a stream lacks is spelled with what every encoding has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character) or escaped(character) for character in missing), error.end


codecs.register_error(PLAINER, _plainer)
