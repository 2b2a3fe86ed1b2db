"""Values out of JSON, with the types that are read of them, or the key that has another type."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hubquant.errors import HubquantError

_WORDS = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "greater_than_equal": "a number that is not negative",
    "string_pattern_mismatch": "a number between quotes",
}
Kind = TypeVar("Kind", bound=BaseModel)


class Typed(BaseModel):
    """Keys that are not declared are not looked at."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def read_typed(
    kind: type[Kind],
    value: Any,
    name: str,
    error: type[HubquantError],
    hint: str = "compare it with the file of the original repository",
) -> Kind:
    """``value`` as ``kind``. Raises ``error``, which names a key of the file ``name`` that has another type."""
    try:
        return kind.model_validate(value)
    except ValidationError as found:
        errors = found.errors(include_url=False, include_context=False)
        path = max((_path(value, each["loc"]) for each in errors), key=lambda path: path.count("."))
        same = [each for each in errors if _path(value, each["loc"]) == path]
        raise error(f"{name} cannot be used", why=_reason(path, same), hint=hint) from None


def _reason(path: str, errors: list[Any]) -> str:
    first = errors[0]
    if first["type"] == "missing":
        return f"{path + ': ' if path else ''}{first['loc'][-1]} is missing"
    wanted = dict.fromkeys(_WORDS[each["type"]] for each in errors if each["type"] in _WORDS)
    shown = " ".join(repr(first["input"])[:60].split())
    return f"{path or 'its content'} is {shown}, not {' or '.join(wanted) or 'what belongs there'}"


def _path(value: Any, location: tuple[int | str, ...]) -> str:
    """The part of a location that stands in the value; the rest are names of alternatives."""
    found: list[str] = []
    for part in location:
        within = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if within:
            value = value[part]
            found.append(str(part))
    return ".".join(found)[:120]
