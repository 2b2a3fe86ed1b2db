"""A model card as the Hub shows it: README.md as HTML that is safe to stand in a page."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt

from hubquant.hub.front_matter import BLOCK, read_front_matter
from hubquant.publish.html import text as escaped

_TAGS = nh3.ALLOWED_TAGS | {"details", "summary", "input"}
_ATTRIBUTES = {
    **nh3.ALLOWED_ATTRIBUTES,
    "td": {"align", "style"},
    "th": {"align", "style"},
    "img": {"src", "alt", "title", "width", "height"},
    "code": {"class"},
}


def card_html(text: str, place_of: Callable[[str], str | None]) -> str:
    """``place_of`` is the address of a file of the repository, None where it has no such file. Pictures from elsewhere
    are left out: the page would load them from there."""
    body = BLOCK.sub("", text, count=1)
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)

    def kept(tag: str, name: str, value: str) -> str | None:
        if tag == "img" and name == "src":
            return None if _is_elsewhere(value) else place_of(value.removeprefix("./"))
        if tag == "a" and name == "href" and not _is_elsewhere(value) and not value.startswith("#"):
            return place_of(value.removeprefix("./"))
        return value

    clean = nh3.clean(
        rendered,
        tags=set(_TAGS),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        attribute_filter=kept,
        url_schemes={"http", "https", "mailto"},
        set_tag_attribute_values={"a": {"target": "_blank"}},
        filter_style_properties={"text-align"},
    )
    return f'<article class="hq-card">{_front_matter(read_front_matter(text))}{clean}</article>'


def _front_matter(head: dict[str, object]) -> str:
    """What the Hub shows above a card, as chips: licence, languages, tags, the base model."""
    chips = []
    for name in ("license", "pipeline_tag", "library_name", "base_model", "language", "tags"):
        values = head.get(name)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str | int):
                chips.append(f"<li><span>{escaped(name.replace('_', ' '))}</span> {escaped(str(value))}</li>")
    return f'<ul class="hq-chips" aria-label="Metadata of the card">{"".join(chips)}</ul>' if chips else ""


def _is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.scheme or parts.netloc)
