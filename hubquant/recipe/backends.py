"""Formats by name in a recipe: types such as ``gguf:Q4_K_M`` or ``quanto:qint4``, and settings under the name of a
format."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

GGUF = "gguf"
LIBRARIES = ("bitsandbytes", "quanto", "torchao", "nncf", "sdnq")
"""What else weights are quantized by: libraries whose folders transformers and diffusers load."""
OF_GGUF = (
    *("rules", "pure", "output_tensor", "token_embedding", "prune_layers"),
    *("leave_output_tensor", "override_kv", "rounding"),
    *("allow_fork_types", "allow_requantize"),
)
"""Settings that no other format has."""


def with_backends_merged(quantize: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``quantize`` of a recipe with bare types, and with the settings under ``gguf`` among the others.

    Raises ``ValueError`` for a format that does not exist, and for settings that contradict each other or are not
    GGUF's.
    """
    merged = {name: value for name, value in quantize.items() if name != GGUF}
    if isinstance(types := merged.get("types"), (list, tuple)):
        merged["types"] = tuple(map(_named, types))
    own = quantize.get(GGUF, {})
    if not isinstance(own, Mapping):
        raise ValueError(f"{GGUF} holds settings by name, such as {GGUF}: {{pure: true}}")
    for name, value in own.items():
        if name not in OF_GGUF:
            raise ValueError(f"{GGUF}.{name} is no setting of GGUF alone; there are {', '.join(OF_GGUF)}")
        if name in merged and merged[name] != value:
            raise ValueError(f"{name} and {GGUF}.{name} contradict each other")
    return {**merged, **own}


def is_of_library(type: str) -> bool:
    """Whether an entry of ``types`` names one of the ``LIBRARIES``, as ``quanto:qint4`` does."""
    return ":" in type


def _named(entry: Any) -> Any:
    if isinstance(entry, str):
        return _type(entry)
    if isinstance(entry, Mapping) and isinstance(entry.get("type"), str):
        type = _type(entry["type"])
        if is_of_library(type):
            raise ValueError(f"a type of GGUF may have a name of its own, and {type} is none")
        return {**entry, "type": type}
    return entry


def _type(text: str) -> str:
    """A type of GGUF is bare, any other has its library before it."""
    backend, colon, name = text.rpartition(":")
    backend = backend.strip().lower()
    if not colon or backend == GGUF:
        return name.strip()
    if backend not in LIBRARIES:
        near = get_close_matches(backend, (GGUF, *LIBRARIES), 1)
        there = f"did you mean {near[0]}:{name}?" if near else f"there are {', '.join((GGUF, *LIBRARIES))}"
        raise ValueError(f"there is no format {backend}; {there}")
    return f"{backend}:{name.strip()}"
