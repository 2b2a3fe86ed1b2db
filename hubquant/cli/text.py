"""What streams and JSON cannot hold, in words that they can."""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping
from typing import Any

from hubquant.printable import escaped

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


def finite(value: Any) -> Any:
    """Plain data for JSON, which has no NaN and no infinity: they become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """For ``codecs``: what the encoding of a stream lacks is spelled with what every encoding has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_SPELLED.get(character) or escaped(character) for character in missing), error.end


codecs.register_error(PLAINER, _plainer)
