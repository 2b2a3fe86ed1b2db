"""What is settled of publishing before any work: whether the licence allows it, who may see the files, how the card is
written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from hubquant.disk import user_path
from hubquant.errors import OutputError
from hubquant.publish.card import render
from hubquant.publish.template import CardTemplate
from hubquant.recipe.schema import Publish, Recipe
from hubquant.sources.source import SourceModel

NO_DERIVATIVES = re.compile(r"(?:^|[^a-z])(?:nd(?:[^a-z]|$)|no[-_ ]?deriv)", re.IGNORECASE)


def check_license(card: Mapping[str, Any], model: str, settings: Publish) -> None:
    """Raise ``OutputError`` where the licence that ``card`` names allows no derivatives (cc-by-nc-nd-4.0), unless
    the settings say that there is a permission."""
    found = without_derivatives(card)
    if found is not None and not settings.i_have_permission:
        raise OutputError(
            f"quantized files of {model} may not be published",
            why=f"its licence, {found[:80]}, allows no derivatives",
            hint="keep the files to yourself, or add --i-have-permission if its authors have allowed it",
        )


def without_derivatives(card: Mapping[str, Any]) -> str | None:
    """The licence that ``card`` names, if it allows no derivatives."""
    named = [card.get("license"), card.get("license_name")]
    texts = [text for each in named for text in (each if isinstance(each, list) else [each]) if isinstance(text, str)]
    return next((text for text in texts if NO_DERIVATIVES.search(text)), None)


def gating(settings: Publish, source: SourceModel) -> Literal["auto", "manual"] | None:
    """Who decides about access to the repository; None leaves it as it is."""
    if settings.gated == "inherit":
        return source.remote.gated if source.remote else None
    return settings.gated


def card_template(recipe: Recipe) -> CardTemplate | None:
    """The user's own. Raises ``RecipeError`` where it cannot be read, or fails with a card like the one it is for."""
    if recipe.publish.card is None:
        return None
    from hubquant.publish.example import example_card

    template = CardTemplate.read(user_path(recipe.publish.card))
    render(example_card(measured=not recipe.evaluate.skip), template)
    return template


def names_in_files(settings: Publish) -> dict[str, str]:
    """Keys of ``general.*`` that the recipe gives."""
    given = {"name": settings.name, "quantized_by": settings.quantized_by, "repo_url": settings.repo_url}
    return {key: value for key, value in given.items() if value is not None}
