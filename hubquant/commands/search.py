"""Models of the Hub to choose from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.convert.architectures import CLASSES

if TYPE_CHECKING:
    from hubquant.hub.access import Token
    from hubquant.hub.listing import FoundModel


def search(text: str, limit: int, token: Token = None) -> list[FoundModel]:
    """See :func:`hubquant.search`."""
    from hubquant.hub.listing import search_models

    return [_judged(found) for found in search_models(text, limit, token=token)]


def _judged(found: FoundModel) -> FoundModel:
    if found.unsuitable or found.model_class is None or found.model_class in CLASSES:
        return found
    return replace(found, unsuitable=f"{found.model_class} is not among the architectures that are converted")
