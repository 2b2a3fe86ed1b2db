"""Sizes as users write them."""

from __future__ import annotations

import re

from hubquant.errors import RecipeError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT])(?:(i?)B)?", re.IGNORECASE)


def parse_size(text: str, field: str) -> int:
    """Bytes of "45GiB" (binary), of "45GB" (decimal), or of llama.cpp's "45G", which is decimal too.

    Raises ``RecipeError`` that names the ``field``."""
    match = _SIZE.fullmatch(text.strip())
    base = 1024 if match and match[3] else 1000
    n_bytes = int(float(match[1]) * base ** ("KMGT".index(match[2].upper()) + 1)) if match else 0
    if n_bytes < 1:
        raise RecipeError(f"{field}: {text!r} is not a size", hint="write 45GiB, 500MB or 4G")
    return n_bytes
