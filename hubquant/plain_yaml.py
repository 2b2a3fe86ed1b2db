"""YAML from strangers: what takes hours or gigabytes to understand is refused before it is."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

DEEPEST = 32  # collections within each other
LONGEST = 10_000  # characters of a scalar without quotes, which may be a number in any base
_OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


class TooMuchError(yaml.MarkedYAMLError):
    """Sound YAML, perhaps, but not of the kind that is read here."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict | set):
                raise TooMuchError(problem="a key is a list or a mapping", problem_mark=key_node.start_mark)
            if key in seen:
                raise TooMuchError(problem=f"{str(key)[:80]!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str, *, most_tokens: int, unique_keys: bool = True) -> Any:
    """Plain data. Raises ``yaml.YAMLError`` for anything else; tags and aliases are nothing else."""
    depth = 0
    try:
        for number, token in enumerate(yaml.scan(text)):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if problem := _problem(token, number > most_tokens, depth):
                raise TooMuchError(problem=problem, problem_mark=token.start_mark)
        return yaml.load(text, _Loader if unique_keys else yaml.SafeLoader)
    except RecursionError:
        raise TooMuchError(problem="it is nested too deeply") from None
    except (ValueError, ArithmeticError) as error:  # of numbers and dates
        raise TooMuchError(problem=str(error)) from None


def _problem(token: yaml.Token, is_long: bool, depth: int) -> str | None:
    match token:
        case yaml.TagToken():
            return "a YAML tag, and only plain data is read"
        case yaml.AliasToken():
            return "a YAML alias, a few of which can stand for gigabytes"
        case yaml.ScalarToken(plain=True, value=value) if len(value) > LONGEST:
            return f"{len(value):,} characters without quotes"
    if depth > DEEPEST:
        return "it is nested too deeply"
    return "it is too long" if is_long else None
