"""Sizes as users write them."""

from __future__ import annotations

import re

from hubquant.errors import RecipeError

SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT])(i?)B$", re.IGNORECASE)


def parse_size(text: str, field: str) -> int:
    """Bytes of "45GiB" (binary) or "45GB" (decimal). Raises ``RecipeError`` that names the ``field``."""
    match = SIZE.match(text.strip())
    if not match or float(match[1]) <= 0:
        raise RecipeError(f"{field}: {text!r} is not a size", hint="write 45GiB or 500MB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMGT".index(match[2].upper()) + 1))
