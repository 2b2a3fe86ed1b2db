"""Which models an account, a search or a collection of the Hub has."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.hf_api import ExpandModelProperty_T
from pydantic import NonNegativeInt

from hubquant.errors import HubUnavailableError
from hubquant.hub.access import Token
from hubquant.hub.failures import hub_errors
from hubquant.hub.retry import PATIENT, Retry
from hubquant.typed import Typed, read_typed

READ = "safetensors"  # as the Hub tags repositories with weights that can be read


_LICENSE = "license:"
_ASKED: list[ExpandModelProperty_T] = [
    *("config", "downloads", "gated", "library_name", "likes", "pipeline_tag", "private", "tags")
]


@dataclass(frozen=True)
class FoundModel:
    """``downloads`` are those of the last 30 days; ``model_class`` is what config.json names, such as LlamaForCausalLM.
    ``unsuitable`` tells why it can be no source, as far as the list shows."""

    id: str
    downloads: int
    likes: int
    license: str | None
    gated: Literal["auto", "manual"] | None
    private: bool
    pipeline_tag: str | None
    model_class: str | None
    unsuitable: str | None


class _Listed(Typed):
    id: str
    downloads: NonNegativeInt | None
    likes: NonNegativeInt | None
    gated: Literal["auto", "manual", False] | None
    private: bool | None
    pipeline_tag: str | None
    library_name: str | None
    tags: list[str] | None
    config: dict[str, Any] | None


def search_models(text: str, limit: int, *, token: Token = None, retry: Retry = PATIENT) -> list[FoundModel]:
    """At most ``limit`` models with ``text`` in their names that ``token`` may see, those with the most downloads
    first. Raises as :func:`list_models`."""

    def ask() -> list[ModelInfo]:
        found = HfApi(token=token).list_models(search=text, sort="downloads", limit=limit, expand=_ASKED)
        return list(found)

    with hub_errors(text or "the Hub", token=token):
        return [_found(info) for info in retry.call(ask)]


def _found(info: ModelInfo) -> FoundModel:
    values = {name: getattr(info, name, None) for name in _Listed.model_fields}
    listed = read_typed(_Listed, values, "the Hub's answer", HubUnavailableError)
    tags = listed.tags or []
    classes = (listed.config or {}).get("architectures")
    return FoundModel(
        id=listed.id,
        downloads=listed.downloads or 0,
        likes=listed.likes or 0,
        license=next((tag.removeprefix(_LICENSE) for tag in tags if tag.startswith(_LICENSE)), None),
        gated=listed.gated or None,
        private=bool(listed.private),
        pipeline_tag=listed.pipeline_tag,
        model_class=str(classes[0]) if isinstance(classes, list) and classes else None,
        unsuitable=_unsuitable({*tags, listed.library_name}),
    )


def _unsuitable(tags: set[str | None]) -> str | None:
    if "gguf" in tags:
        return "it holds GGUF files already"
    return None if READ in tags else "it has no weights in safetensors"


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
