"""llama.cpp's file types and the names and block sizes of ggml's tensor types."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hubquant.errors import MixError, NotSupportedYet
from hubquant.quants.formats import lookup


@dataclass(frozen=True)
class FileType:
    """A target of llama-quantize: ``id`` goes into ``general.file_type``, ``default`` is the type of most tensors."""

    name: str
    id: int
    default: str

    @property
    def quantized(self) -> bool:
        return self.default not in FLOAT_TYPES


FLOAT_TYPES = ("F32", "F16", "BF16")

FTYPES: Mapping[str, FileType] = MappingProxyType(
    {
        name: FileType(name, id, default)
        for name, id, default in (
            ("F32", 0, "F32"),
            ("F16", 1, "F16"),
            ("Q4_0", 2, "Q4_0"),
            ("Q4_1", 3, "Q4_1"),
            ("Q8_0", 7, "Q8_0"),
            ("Q5_0", 8, "Q5_0"),
            ("Q5_1", 9, "Q5_1"),
            ("Q2_K", 10, "Q2_K"),
            ("Q3_K_S", 11, "Q3_K"),
            ("Q3_K_M", 12, "Q3_K"),
            ("Q3_K_L", 13, "Q3_K"),
            ("Q4_K_S", 14, "Q4_K"),
            ("Q4_K_M", 15, "Q4_K"),
            ("Q5_K_S", 16, "Q5_K"),
            ("Q5_K_M", 17, "Q5_K"),
            ("Q6_K", 18, "Q6_K"),
            ("IQ2_XXS", 19, "IQ2_XXS"),
            ("IQ2_XS", 20, "IQ2_XS"),
            ("Q2_K_S", 21, "Q2_K"),
            ("IQ3_XS", 22, "IQ3_S"),
            ("IQ3_XXS", 23, "IQ3_XXS"),
            ("IQ1_S", 24, "IQ1_S"),
            ("IQ4_NL", 25, "IQ4_NL"),
            ("IQ3_S", 26, "IQ3_S"),
            ("IQ3_M", 27, "IQ3_S"),
            ("IQ2_S", 28, "IQ2_XS"),
            ("IQ2_M", 29, "IQ2_S"),
            ("IQ4_XS", 30, "IQ4_XS"),
            ("IQ1_M", 31, "IQ1_M"),
            ("BF16", 32, "BF16"),
            ("TQ1_0", 36, "TQ1_0"),
            ("TQ2_0", 37, "TQ2_0"),
            ("MXFP4_MOE", 38, "MXFP4"),
            ("NVFP4", 39, "NVFP4"),
            ("Q1_0", 40, "Q1_0"),
            ("Q2_0", 41, "Q2_0"),
            ("Q3_K_HIFI", 45, "Q3_K_HIFI"),
        )
    }
)

BLOCK_SIZES: Mapping[str, int] = MappingProxyType(
    {file.default: lookup(file.default).block_size for file in FTYPES.values()}
)

TARGET_SIZE = re.compile(r"^\d+(\.\d+)?\s*(bpw|[KMGT]i?B)$", re.IGNORECASE)

ALIASES: Mapping[str, str] = MappingProxyType({"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"})


COPY = FileType("COPY", -1, "F32")
"""llama-quantize's, for a GGUF file whose tensors stay as they are. It is no type of files."""


def file_type(name: str) -> FileType:
    """The file type called ``name``, case-insensitive, llama-quantize's short names and numbers included, and COPY.

    Raises ``MixError``, or ``NotSupportedYet`` for a size.
    """
    if TARGET_SIZE.match(name):
        raise NotSupportedYet(f"a size as a target here ({name})", hint=f"hubquant run MODEL --types {name} makes one")
    canonical = ALIASES.get(name.upper(), name.upper())
    if canonical == COPY.name:
        return COPY
    if canonical.isdecimal() and (numbered := [type for type in FTYPES.values() if str(type.id) == canonical]):
        return numbered[0]
    if canonical not in FTYPES:
        raise MixError(f"unknown file type {name!r}", hint=_suggestion(name, FTYPES))
    return FTYPES[canonical]


def is_file_type(name: str) -> bool:
    return ALIASES.get(name.upper(), name.upper()) in FTYPES


def tensor_type(name: str) -> str:
    """The upper-case ggml tensor type called ``name``. Raises MixError, and explains when a file type was given."""
    upper = name.upper()
    if upper in BLOCK_SIZES:
        return upper
    if upper in FTYPES:
        raise MixError(
            f"{name!r} is a mix of tensor types", why="one tensor has one type", hint=f"write {FTYPES[upper].default}"
        )
    raise MixError(f"unknown tensor type {name!r}", hint=_suggestion(name, BLOCK_SIZES))


def _suggestion(name: str, valid: Iterable[str]) -> str:
    names = list(valid)
    nearest = difflib.get_close_matches(name.upper(), names, n=1)
    return f"{f'did you mean {nearest[0]}? ' if nearest else ''}valid names: {', '.join(names)}"
