"""A GGUF file with other metadata: what follows the header stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gguf import GGUFValueType

from hubquant.errors import UserError
from hubquant.gguf_file.copying import CopiedFile, Piece, encode_stored
from hubquant.gguf_file.encoding import encode_value
from hubquant.gguf_file.layout import pad
from hubquant.gguf_file.metadata import KV, Scalar
from hubquant.gguf_file.overrides import check_range
from hubquant.gguf_file.stored import ALIGNMENT, StoredFile

Changes = Mapping[str, KV | None]
"""New values by key; None takes the key away."""
SCALARS = {type.name.lower(): type for type in GGUFValueType if type != GGUFValueType.ARRAY}
TRUE_AND_FALSE = {"true": True, "1": True, "false": False, "0": False}


def edited(file: StoredFile, changes: Changes) -> CopiedFile:
    """``file`` with ``changes``: a key that is there keeps its place, a new one is the last.

    Raises ``UserError`` for keys that say where tensors are, and ``GGUFError`` for a value that its type cannot hold.
    """
    for key in changes:
        check_key(key)
    new = {key: encode_value(key, kv) for key, kv in changes.items() if kv is not None}
    gone = {key for key, kv in changes.items() if kv is None}
    kept = {key: stored for key, stored in file.metadata.items() if key not in gone}
    rows = [(each.name, each.dims, each.number, each.start - file.data_start) for each in file.tensors]
    header = encode_stored(file.version, kept | new, rows)
    data = max(file.size - file.data_start, 0)
    # A file without tensors may end with its header.
    padded = header.ljust(pad(len(header), file.alignment), b"\0") if file.size >= file.data_start else header
    return CopiedFile(padded, [Piece(file.source, file.data_start, data)], len(file.tensors))


def check_key(key: str) -> None:
    """Raises ``UserError`` for a key that says where the tensors are."""
    if key == ALIGNMENT:
        raise UserError(f"{key} cannot be changed", why="it says where the tensors of the file are")
    if key.startswith("split."):
        raise UserError(
            f"{key} cannot be changed",
            why="it says which shard of a model the file is",
            hint="hubquant gguf split and hubquant gguf merge write it",
        )


def type_of(kv: KV) -> str:
    """uint32, string, or [string] for an array of them."""
    return f"[{kv.item.name.lower()}]" if kv.item is not None else kv.type.name.lower()


def parse_type(text: str) -> KV:
    """A type as :func:`type_of` writes it, as a value of that type. Raises ``UserError``."""
    name = text.strip().lower()
    is_array = name.startswith("[") and name.endswith("]")
    if (item := SCALARS.get(name.strip("[]") if is_array else name)) is None:
        raise UserError(
            f"{text!r} is no type of GGUF", hint=f"write --type {', '.join(SCALARS)}, or one in brackets: [string]"
        )
    return KV((), GGUFValueType.ARRAY, item) if is_array else KV(0, item)


def parse_value(key: str, text: str, like: KV) -> KV:
    """``text`` as a value of the type of ``like``; an array is JSON. Raises ``UserError``."""
    if like.item is None:
        return KV(_scalar(key, text, like.type), like.type)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str | int | float) for each in found):
        raise UserError(
            f"{key} is an array", why=f"{text!r} is none in JSON", hint="write '[1, 2]' or '[\"a\", \"b\"]'"
        )
    words = [each if isinstance(each, str) else json.dumps(each) for each in found]
    return KV(tuple(_scalar(key, word, like.item) for word in words), like.type, like.item)


def new_value(key: str, text: str) -> KV:
    """A value of a key that is not there: text is a string. Raises ``UserError`` for what may be something else."""
    try:
        float(text)
        plain = False
    except ValueError:
        plain = text.lower() not in TRUE_AND_FALSE and text[:1] not in ("[", "{")
    if not plain:
        raise UserError(
            f"there is no key {key} yet",
            why=f"{text} may be of several types, and llama.cpp reads one of them",
            hint="add --type uint32, float32, bool or string",
        )
    return KV(text, GGUFValueType.STRING)


def _scalar(key: str, text: str, type: GGUFValueType) -> Scalar:
    if type == GGUFValueType.STRING:
        return text
    if type == GGUFValueType.BOOL:
        if text.lower() not in TRUE_AND_FALSE:
            raise UserError(f"{key} is true or false", why=f"{text!r} is neither")
        return TRUE_AND_FALSE[text.lower()]
    kind, noun = (float, "number") if type in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64) else (int, "whole number")
    try:
        value = kind(text)
    except ValueError:
        raise UserError(
            f"{key} is a {noun}", why=f"{text!r} is none", hint=f"its type is {type.name.lower()}"
        ) from None
    if isinstance(value, int):
        check_range(key, value, type)
    return value
