"""ggml tensor types by name: id, weights per block, bytes per block."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from hubquant.errors import GGUFError


class TensorType(NamedTuple):
    id: int
    block_size: int
    block_bytes: int


# Two types that llama.cpp reads and that the gguf package does not list.
_NEWER = {"Q1_0": TensorType(41, 128, 18), "Q2_0": TensorType(42, 64, 18)}

TENSOR_TYPES: Mapping[str, TensorType] = MappingProxyType(
    _NEWER | {type.name: TensorType(type.value, *GGML_QUANT_SIZES[type]) for type in GGMLQuantizationType}
)
NAMES_BY_ID: Mapping[int, str] = MappingProxyType({type.id: name for name, type in TENSOR_TYPES.items()})


def row_bytes(type: str, n: int) -> int:
    """Bytes of a row of ``n`` weights; ``GGUFError`` for an unknown type or a row that is not whole blocks."""
    known = TENSOR_TYPES.get(type)
    if known is None:
        raise GGUFError(f"unknown tensor type {type!r}")
    if n % known.block_size:
        raise GGUFError(
            f"a row of {n} weights cannot be {type}", why=f"{type} has blocks of {known.block_size} weights"
        )
    return n // known.block_size * known.block_bytes
