"""Tensor types by name and by the number a file has for them, and the bytes of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hubquant.errors import GGUFError
from hubquant.quants import FORK_TYPES, TYPES
from hubquant.quants.formats import lookup

NAMES_BY_ID: Mapping[int, str] = MappingProxyType({type.id: name for name, type in TYPES.items()})
"""llama.cpp's types. A fork has given one of these numbers to a type of its own."""

FORK_TYPE_WITH_ID_OF: Mapping[str, str] = MappingProxyType(
    {NAMES_BY_ID[type.id]: name for name, type in FORK_TYPES.items() if type.id in NAMES_BY_ID}
)


def row_bytes(type: str, n: int) -> int:
    """Bytes of a row of ``n`` weights; ``GGUFError`` for an unknown type or a row that is not whole blocks."""
    if type not in TYPES and type not in FORK_TYPES:
        raise GGUFError(f"unknown tensor type {type!r}")
    known = lookup(type)
    if n % known.block_size:
        raise GGUFError(
            f"a row of {n} weights cannot be {type}", why=f"{type} has blocks of {known.block_size} weights"
        )
    return n // known.block_size * known.block_bytes
