"""What things on the Hub are called."""

from __future__ import annotations

import re

HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
HUB_PREFIX = "hub:"
_PART_OF_BRANCH = re.compile(r"(?!\.)(?!.*\.\.)(?!.*\.lock$)[^\s~^:?*\[\]\\@{}]+(?<!\.)")


def branch_name(value: str) -> str:
    """By git's rules, but for its rarest characters: https://git-scm.com/docs/git-check-ref-format. Raises
    ``ValueError``."""
    parts = value.split("/")
    if value.startswith(("-", "refs/")) or not all(_PART_OF_BRANCH.fullmatch(part) for part in parts):
        raise ValueError(f"no branch can be called {value!r}")
    return value
