"""What is wrong with a recipe, in words of recipes: which field, what it must be, and an example."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import annotated_types
import yaml
from pydantic import BaseModel, ValidationError

from hubquant.errors import RecipeError
from hubquant.recipe.schema import IN_TYPES, Recipe

Location = Sequence[str | int]

_NOUNS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_EXAMPLES: dict[type, Any] = {str: "text", int: 100, float: 0.05, bool: True}
LONGEST = 80  # characters of a value in a message
NAME_A_MODEL = "add --set model=org/name, or in a recipe of your own the line model: org/name"


def explain(error: ValidationError, origin: str, typed: Mapping[str, str]) -> RecipeError:
    """The first problem. ``origin`` names the recipe; ``typed`` is, by field, how the user has overridden it."""
    problem = _first(error.errors(include_url=False))
    location: Location = tuple(part for part in problem["loc"] if part not in IN_TYPES)
    name, more = ".".join(map(str, location)) or "recipe", error.error_count() - 1
    path = next((path for path in typed if _is_within(name, path) or _is_within(path, name)), None)
    where = f"{origin}: {name}" if path is None else typed[path] if name == path else f"{typed[path]}: {name}"
    rest = f" (and {more} more)" if more else ""
    of_a_list = any(isinstance(part, int) for part in location)  # which cannot be overridden alone
    if path == name and not typed[path].startswith("--"):
        write = f"write {typed[path]}="  # an argument of a function
    elif path is None or of_a_list:
        last = name.rpartition(".")[2]
        write = "write " if last.isdecimal() else f"write {last}: "
    else:
        write = f"write --set {name}="
    match problem["type"]:
        case "extra_forbidden" | "invalid_key":
            what = f"{origin if path is None else typed[path]}: unknown key {name}{rest}"
            return RecipeError(what, hint=_nearest(str(location[-1]), location[:-1]))
        case "missing" if location == ("model",):
            return RecipeError(f"{where} is missing{rest}", hint=NAME_A_MODEL)
        case "missing":
            return RecipeError(f"{where} is missing{rest}", hint=f"{write}{_inline(_example(location, None))}")
        case "value_error":
            hint = NAME_A_MODEL if location == ("model",) else None
            return RecipeError(f"{where}{rest}", why=problem["msg"].removeprefix("Value error, "), hint=hint)
    given = problem["input"]
    what = f"{where} must be {noun(field_at(location))}, not {_shown(given)}{rest}"
    return RecipeError(what, hint=_hint(location, given, write))


def _first(problems: Sequence[Any]) -> Any:
    """A misspelt key rather than that the one is missing which it was meant to be."""
    first, beside = problems[0], {}
    for each in problems:
        if each["type"] == "extra_forbidden" and each["loc"][:-1] == first["loc"][:-1]:
            beside[str(each["loc"][-1])] = each
    meant = difflib.get_close_matches(str(first["loc"][-1]), beside, n=1) if first["type"] == "missing" else []
    return beside[meant[0]] if meant else first


def _is_within(path: str, other: str) -> bool:
    return f"{path}.".startswith(f"{other}.")


def _hint(location: Location, given: Any, write: str) -> str:
    kind, _ = stripped(field_at(location))
    if typing.get_origin(kind) is typing.Literal and isinstance(given, str):
        choices = [choice for choice in typing.get_args(kind) if isinstance(choice, str)]
        if near := difflib.get_close_matches(given.lower(), choices, n=1):
            return f"did you mean {near[0]}?"
    if is_model(kind):
        return f"its keys are {', '.join(kind.model_fields)}"
    return f"{write}{_inline(_example(location, given))}"


def _example(location: Location, given: Any) -> Any:
    """A right value: made of the one that was given, or the default, or any of its kind."""
    kind, _ = stripped(field_at(location))
    if is_list(kind) and isinstance(given, str | int | float):
        element, _ = stripped(typing.get_args(kind)[0])
        return [_cut(str(given))] if element is str else [_of_kind(element)]
    if kind is str and isinstance(given, int | float):
        return str(given)
    return _default(location) or _of_kind(kind)


def _of_kind(kind: Any) -> Any:
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    if is_list(kind):
        return [_of_kind(stripped(typing.get_args(kind)[0])[0])]
    if typing.get_origin(kind) is dict:
        return {"name": _of_kind(stripped(typing.get_args(kind)[1])[0])}
    if is_model(kind):
        return {name: _of_kind(stripped(info)[0]) for name, info in kind.model_fields.items() if info.is_required()}
    return _EXAMPLES[kind]


def _default(location: Location) -> Any:
    """Plain data, or None where the field has no default or an empty one."""
    value = getattr(field_at(location), "default", None)
    if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
        return None
    return list(value) if isinstance(value, tuple) else value if isinstance(value, str | int | float) else None


def noun(annotation: Any) -> str:
    kind, constraints = stripped(annotation)
    if typing.get_origin(kind) is typing.Literal:
        choices = [str(choice) for choice in typing.get_args(kind)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if is_list(kind):
        return "a list"
    if typing.get_origin(kind) is dict:
        return f"a mapping of names to {noun(typing.get_args(kind)[1]).removeprefix('a ')}s".replace("texts", "text")
    if is_model(kind):
        return "a mapping of keys to values"
    bounds = [bound for constraint in constraints if (bound := _bound(constraint))]
    return " ".join([_NOUNS[kind], *bounds])


def _bound(constraint: Any) -> str | None:
    match constraint:
        case annotated_types.Ge(ge):
            return f"of at least {ge}"
        case annotated_types.Gt(gt):
            return f"larger than {gt}"
        case annotated_types.Le(le):
            return f"of at most {le:g}"
        case annotated_types.MinLen():
            return "that is not empty"
    return None


def is_plain_list(path: str) -> bool:
    """Whether the field at ``path``, with dots, is a list whose elements may be texts or whole numbers."""
    kind, _ = stripped(field_at(path.split(".")))
    return is_list(kind) and stripped(typing.get_args(kind)[0])[0] in (str, int)


def field_at(location: Location) -> Any:
    """The annotation, or field, at ``location``."""
    found: Any = Recipe
    for part in location:
        kind, _ = stripped(found)
        if kind is str:
            kind = next(filter(is_model, members(found)), kind)
        if is_model(kind):
            if part not in kind.model_fields:
                return found
            found = kind.model_fields[part]
        elif typing.get_args(kind):
            found = typing.get_args(kind)[0 if isinstance(part, int) else -1]
    return found


def stripped(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without ``Annotated``, ``FieldInfo`` and ``| None``, and its constraints."""
    constraints: list[Any] = []
    while True:
        if hasattr(annotation, "annotation"):  # FieldInfo
            constraints += annotation.metadata
            annotation = annotation.annotation
        elif hasattr(annotation, "__metadata__"):
            constraints += [part for info in annotation.__metadata__ for part in getattr(info, "metadata", [info])]
            annotation = annotation.__origin__
        elif isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
            annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
        else:
            return annotation, constraints


def members(annotation: Any) -> list[Any]:
    """The types of a union, without ``Annotated``."""
    union = getattr(annotation, "__origin__", annotation)
    return [stripped(member)[0] for member in typing.get_args(union)] or [stripped(annotation)[0]]


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def is_list(kind: Any) -> bool:
    return typing.get_origin(kind) in (tuple, list)


def _nearest(name: str, location: Location) -> str:
    """The field that a wrong key at ``location`` may have been meant to be."""
    valid = [key for kind in members(field_at(location)) if is_model(kind) for key in kind.model_fields]
    elsewhere = [path for path in _paths(Recipe) if path.endswith(f".{name}")]
    near = [".".join(map(str, (*location, found))) for found in difflib.get_close_matches(name.lower(), valid, n=1)]
    if elsewhere or near:
        return f"did you mean {' or '.join(elsewhere or near)}?"
    return f"valid here: {', '.join(valid)}"


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        kind, _ = stripped(info)
        yield f"{above}{name}"
        if is_model(kind):
            yield from _paths(kind, f"{above}{name}.")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    return _cut(repr(value) if isinstance(value, str) else _inline(value))


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
