"""Rules may come from a stranger's recipe, and a regular expression can search for years."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from hubquant.errors import MixError
from hubquant.limited import LimitError, Worker
from hubquant.recipe.schema import Rule

SECONDS = 2
MEMORY = 1 << 28  # bytes
# Without a repeated group and with few repeats a search takes no time, whatever the name.
_REPEATS = re.compile(r"[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_FEW = 3


def pattern(match: str) -> re.Pattern[str]:
    """Searched in lower-case names. Raises ``MixError`` for what is no regular expression."""
    try:
        return re.compile(match.lower())
    except (re.error, RecursionError, OverflowError) as error:
        raise MixError(
            f"{match!r} is not a regular expression", why=str(error), hint="escape special characters with a backslash"
        ) from None


def first_match(rules: Sequence[tuple[re.Pattern[str], str]], name: str) -> str | None:
    return next((type for pattern, type in rules if pattern.search(name.lower())), None)


def check_rules(rules: Iterable[Rule], names: Iterable[str]) -> None:
    """Raises ``MixError`` when one of the ``rules`` cannot be searched in the ``names`` within seconds."""
    _check(tuple(rule.match for rule in rules if _may_take_long(rule.match)), tuple(names))


def _may_take_long(match: str) -> bool:
    return bool(_REPEATED_GROUP.search(match)) or len(_REPEATS.findall(match)) > _FEW


@lru_cache(maxsize=8)
def _check(matches: tuple[str, ...], names: tuple[str, ...]) -> None:
    if not matches:
        return
    worker = Worker(search, seconds=SECONDS, memory=MEMORY)
    try:
        for match in matches:
            worker(match=match, names=names)
    except LimitError as error:
        raise MixError(f"the rule {match[:80]!r} cannot be used", why=str(error), hint="write it simpler") from None
    finally:
        worker.close()


def search(match: str, names: list[str]) -> int:
    """In the other process."""
    pattern = re.compile(match.lower())
    return sum(pattern.search(name.lower()) is not None for name in names)
