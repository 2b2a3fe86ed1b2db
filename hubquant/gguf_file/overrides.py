"""Metadata that a user sets, as llama-quantize's ``--override-kv`` takes it: KEY=TYPE:VALUE."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gguf import GGUFValueType

from hubquant.errors import GGUFError
from hubquant.gguf_file.metadata import KV, Metadata, boolean, f32, string, u32

_OVERRIDE = re.compile(r"([^\s=]+)=(int|float|bool|str):(.*)", re.DOTALL)
_LAYOUT = ("general.alignment", "split.")  # what decides where the bytes of a file lie
_INTEGERS = {
    GGUFValueType.UINT8: (0, 1 << 8),
    GGUFValueType.INT8: (-1 << 7, 1 << 7),
    GGUFValueType.UINT16: (0, 1 << 16),
    GGUFValueType.INT16: (-1 << 15, 1 << 15),
    GGUFValueType.UINT32: (0, 1 << 32),
    GGUFValueType.INT32: (-1 << 31, 1 << 31),
    GGUFValueType.UINT64: (0, 1 << 64),
    GGUFValueType.INT64: (-1 << 63, 1 << 63),
}


def overridden(metadata: Metadata, overrides: Iterable[str]) -> Metadata:
    """``metadata`` with the values of ``overrides``. As llama-quantize does, whole numbers become u32 and floats f32;
    but where a key holds whole numbers of another type it keeps that. Raises ``GGUFError`` as :func:`parse_override`
    does, and for a number that its type cannot hold."""
    changed = dict(metadata)
    for text in overrides:
        key, value = parse_override(text)
        if isinstance(value.value, int) and not isinstance(value.value, bool):
            value = _whole(key, value.value, metadata.get(key))
        changed[key] = value
    return changed


def parse_override(text: str) -> tuple[str, KV]:
    """Key and value. Raises ``GGUFError`` for anything that is not KEY=TYPE:VALUE with int, float, bool or str, and for
    keys that decide where the bytes of a file lie."""
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        raise GGUFError(
            f"{text!r} sets no metadata",
            why="it is not KEY=TYPE:VALUE with a type of int, float, bool and str",
            hint="write llama.context_length=int:8192",
        )
    key, type, value = match.groups()
    if key.startswith(_LAYOUT):
        raise GGUFError(f"{key} cannot be set", why="it says where the bytes of the file lie", hint="leave it out")
    try:
        return key, _READ[type](value)
    except (KeyError, ValueError):
        raise GGUFError(f"{key}: {value!r} is no {_NOUNS[type]}", hint=f"write {key}={_EXAMPLES[type]}") from None


def _whole(key: str, value: int, there: KV | None) -> KV:
    type = there.type if there is not None and there.type in _INTEGERS else GGUFValueType.UINT32
    check_range(key, value, type)
    return KV(value, type)


def check_range(key: str, value: int, type: GGUFValueType) -> None:
    """Raises ``GGUFError`` for a whole number that ``type`` cannot hold."""
    low, high = _INTEGERS[type]
    if not low <= value < high:
        raise GGUFError(
            f"{key} cannot be {value}", why=f"it is a number from {low} to {high - 1}", hint="give one of these"
        )


_READ = {
    "int": lambda text: u32(int(text)),
    "float": lambda text: f32(float(text)),
    "bool": lambda text: boolean({"true": True, "false": False}[text]),
    "str": string,
}
_NOUNS = {"int": "whole number", "float": "number", "bool": "truth value", "str": "text"}
_EXAMPLES = {"int": "int:8192", "float": "float:0.5", "bool": "bool:true", "str": "str:text"}
