"""Formats by name in a recipe: types such as ``gguf:Q4_K_M``, and settings under the name of a format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GGUF = "gguf"
OF_GGUF = (
    *("rules", "pure", "output_tensor", "token_embedding", "prune_layers"),
    *("leave_output_tensor", "override_kv"),
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
        merged["types"] = tuple(map(_of_gguf, types))
    own = quantize.get(GGUF, {})
    if not isinstance(own, Mapping):
        raise ValueError(f"{GGUF} holds settings by name, such as {GGUF}: {{pure: true}}")
    for name, value in own.items():
        if name not in OF_GGUF:
            raise ValueError(f"{GGUF}.{name} is no setting of GGUF alone; there are {', '.join(OF_GGUF)}")
        if name in merged and merged[name] != value:
            raise ValueError(f"{name} and {GGUF}.{name} contradict each other")
    return {**merged, **own}


def _of_gguf(entry: Any) -> Any:
    if isinstance(entry, str):
        return _bare(entry)
    if isinstance(entry, Mapping) and isinstance(entry.get("type"), str):
        return {**entry, "type": _bare(entry["type"])}
    return entry


def _bare(type: str) -> str:
    backend, colon, name = type.rpartition(":")
    if colon and backend.lower() != GGUF:
        raise ValueError(f"there is no format {backend}; {GGUF}: is the only one so far")
    return name
