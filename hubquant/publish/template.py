"""The card's template: the package's own, or one of the user's that may extend it, in jinja2's sandbox."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.errors import RecipeError

if TYPE_CHECKING:
    from jinja2 import Environment

DEFAULT = "card.md.jinja"
OWN = "own"  # the name of the user's template for jinja, which may be called as the package's is
LARGEST = 1 << 20  # bytes
HINT = "mend it there; docs/publishing.md says what a template may use"

MISTAKES = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)

Filters = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class CardTemplate:
    """A template of the user's. ``name`` is that of its file, without a folder."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> CardTemplate:
        """Raises ``RecipeError``."""
        try:
            if path.stat().st_size > LARGEST:
                raise RecipeError(f"{path} is too large for a card's template", why="it has more than 1 MiB")
            return cls(path.name, path.read_text("utf-8"))
        except UnicodeDecodeError as error:
            raise RecipeError(f"publish.card: {path} is not UTF-8", why=str(error)) from None
        except OSError as error:
            raise RecipeError(
                f"publish.card: {path} cannot be read", why=error.strerror, hint="name a template of this machine"
            ) from None


def fill(template: CardTemplate | None, filters: Filters, values: Mapping[str, Any]) -> str:
    """The text that the template makes of ``values``. Raises ``RecipeError`` where a user's own fails."""
    from jinja2 import TemplateError, TemplateSyntaxError

    environment = _environment(template)
    environment.filters.update(filters)
    if template is None:
        return environment.get_template(DEFAULT).render(values)
    try:
        return environment.get_template(OWN).render(values)
    except TemplateSyntaxError as error:
        raise RecipeError(f"{template.name}, line {error.lineno}", why=error.message, hint=HINT) from None
    except (TemplateError, *MISTAKES) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == template.name]
        where = f"{template.name}, line {lines[-1]}" if lines else template.name
        raise RecipeError(where, why=str(error) or type(error).__name__, hint=HINT) from None


def _environment(template: CardTemplate | None) -> Environment:
    from jinja2 import ChoiceLoader, FunctionLoader, PackageLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def own(name: str) -> tuple[str, str | None, None] | None:
        return (template.text, template.name, None) if template and name == OWN else None

    return ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FunctionLoader(own), PackageLoader("hubquant.publish", "templates")]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
