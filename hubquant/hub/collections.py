"""Collections of the Hub that published repositories stand in."""

from __future__ import annotations

import re
from collections.abc import Iterable

from huggingface_hub import HfApi

from hubquant.hub import answers
from hubquant.hub.failures import hub_errors
from hubquant.hub.retry import PATIENT, Retry

_SLUG = re.compile(r"[\w.-]+/[\w.-]+-[0-9a-f]{24}")


def add_to_collection(name: str, repositories: Iterable[str], *, retry: Retry = PATIENT) -> str:
    """Its address, once it holds all ``repositories``; what it has already stays as it is.

    ``name`` is a slug (me/title-0123456789abcdef01234567), or the title of one of the account's own, or with
    ``org/title`` of an organization's, which is made if it is not there. Raises ``HubAccessError`` or
    ``HubUnavailableError``.
    """
    api = HfApi()
    with hub_errors(name, writing=True):
        slug = name
        if not _SLUG.fullmatch(name):
            namespace, _, title = name.rpartition("/")
            owner = namespace or answers.account(retry.call(api.whoami)).name
            # with exists_ok both calls may be made again where their answer got lost
            slug = retry.call(lambda: api.create_collection(title, namespace=owner, exists_ok=True)).slug
        collection = retry.call(lambda: api.get_collection(slug))
        there = {item.item_id for item in collection.items}
        for id in dict.fromkeys(repositories):
            if id not in there:
                retry.call(lambda id=id: api.add_collection_item(slug, id, "model", exists_ok=True))  # type: ignore[misc]
    return collection.url
