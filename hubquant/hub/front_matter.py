"""The front matter of a foreign model card: data to be read with care."""

from __future__ import annotations

import datetime
import re
from typing import Any

import yaml

BLOCK = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LARGEST = 1 << 20  # characters


class _Loader(yaml.SafeLoader):
    """Plain values only. Anchors are refused: a few of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def read_front_matter(text: str) -> dict[str, Any]:
    """The mapping between the ``---`` lines as plain JSON values; empty where there is none or it is not plain YAML."""
    block = BLOCK.match(text[:LARGEST])
    if block is None:
        return {}
    try:
        data = plain(yaml.load(block[1], _Loader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def plain(value: Any) -> Any:
    """``value`` in JSON's types: dates become text, keys become text."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [plain(item) for item in value]
        case datetime.date():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
    return str(value)
