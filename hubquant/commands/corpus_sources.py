"""The texts that ``hubquant dataset build`` is given, as sources of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hubquant.commands.flags import text_sources
from hubquant.errors import UserError
from hubquant.recipe.schema import TextSource
from hubquant.recipe.texts import BY_LANGUAGE, LANG


@dataclass(frozen=True)
class Rows:
    """Which rows are read: ``langs`` for each language, after the first ``skip`` at most ``samples``; of a dataset the
    ``field`` of a ``split`` of a ``config``."""

    langs: tuple[str, ...] = ()
    samples: int | None = None
    skip: int = 0
    config: str | None = None
    split: str | None = None
    field: str | None = None

    @property
    def of_plugins(self) -> dict[str, Any]:
        return _given({"langs": list(self.langs), "samples": self.samples, "skip": self.skip})

    @property
    def of_texts(self) -> dict[str, Any]:
        return {**self.of_plugins, **_given({"config": self.config, "split": self.split, "field": self.field})}


def texts(names: Sequence[str], rows: Rows) -> list[TextSource]:
    """``rows.langs`` are those of the texts that have a place for them. Raises ``UserError``."""
    found = []
    for name in names:
        named = {"file": name} if LANG in name else text_sources([name], ())[0].model_dump(exclude_defaults=True)
        found.append({**named, **rows.of_texts})
        if not any(LANG in str(found[-1].get(key)) for key in BY_LANGUAGE):
            found[-1].pop("langs", None)
    return list(map(_checked, found))


def plugins(names: Sequence[str], rows: Rows) -> list[TextSource]:
    """Of ``FILE.py:CLASS``. Raises ``UserError``."""
    if names and not rows.langs:
        raise UserError(
            "--langs is missing", why="a plugin is asked for one language after the other", hint="--langs en"
        )
    return [_checked({"plugin": name, **rows.of_plugins}) for name in names]


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value}


def _checked(settings: dict[str, Any]) -> TextSource:
    try:
        return TextSource.model_validate(settings)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UserError(
            f"{next(iter(settings.values()))} cannot be read so",
            why=problem["msg"].removeprefix("Value error, "),
            hint="see hubquant dataset build --help",
        ) from None
