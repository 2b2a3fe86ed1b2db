"""Tensor types by name and by the number a file has for them, and the bytes of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hubquant.errors import GGUFError
from hubquant.quants import TYPES

NAMES_BY_ID: Mapping[int, str] = MappingProxyType({type.id: name for name, type in TYPES.items()})


def row_bytes(type: str, n: int) -> int:
    """Bytes of a row of ``n`` weights; ``GGUFError`` for an unknown type or a row that is not whole blocks."""
    known = TYPES.get(type)
    if known is None:
        raise GGUFError(f"unknown tensor type {type!r}")
    if n % known.block_size:
        raise GGUFError(
            f"a row of {n} weights cannot be {type}", why=f"{type} has blocks of {known.block_size} weights"
        )
    return n // known.block_size * known.block_bytes
