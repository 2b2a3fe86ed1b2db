"""Which models an account, a search or a collection of the Hub has."""

from __future__ import annotations

from itertools import islice

from huggingface_hub import HfApi, ModelInfo

from hubquant.hub.failures import hub_errors
from hubquant.hub.retry import PATIENT, Retry

READ = "safetensors"  # as the Hub tags repositories with weights that can be read


def list_models(
    author: str | None = None, search: str | None = None, *, limit: int | None = None, retry: Retry = PATIENT
) -> list[str]:
    """Ids of models in safetensors that are no GGUF repositories, the one that was changed last first.

    ``limit`` counts what is returned. Raises ``HubUnavailableError`` or ``HubAccessError``.
    """

    def ask() -> list[str]:
        found = HfApi().list_models(author=author, search=search, filter=READ, sort="last_modified")
        return list(islice((info.id for info in found if _is_source(info)), limit))

    with hub_errors(author or search or "the Hub"):
        return retry.call(ask)


def collection_models(slug: str, *, retry: Retry = PATIENT) -> list[str]:
    """Ids of the models in a collection, in its order. Raises as :func:`list_models`."""
    with hub_errors(slug):
        collection = retry.call(lambda: HfApi().get_collection(slug))
    return [item.item_id for item in collection.items if item.item_type == "model"]


def _is_source(info: ModelInfo) -> bool:
    return "gguf" not in {*(info.tags or ()), info.library_name}
