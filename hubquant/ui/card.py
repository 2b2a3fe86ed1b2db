"""A model card as the Hub shows it: README.md as HTML that is safe to stand in a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from urllib.parse import urlsplit

import nh3
import yaml
from markdown_it import MarkdownIt

from hubquant.plain_yaml import load_yaml

_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
_MOST_TOKENS = 20_000
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
    head, body = _parts(text)
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
    return f'<article class="hq-card">{_front_matter(head)}{clean}</article>'


def _parts(text: str) -> tuple[dict[str, object], str]:
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    try:
        head = load_yaml(match[1], most_tokens=_MOST_TOKENS)
    except yaml.YAMLError:
        head = None
    return head if isinstance(head, dict) else {}, text[match.end() :]


def _front_matter(head: dict[str, object]) -> str:
    """What the Hub shows above a card, as chips: licence, languages, tags, the base model."""
    chips = []
    for name in ("license", "pipeline_tag", "library_name", "base_model", "language", "tags"):
        values = head.get(name)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str | int):
                chips.append(f"<li><span>{escape(name.replace('_', ' '))}</span> {escape(str(value))}</li>")
    return f'<ul class="hq-chips" aria-label="Metadata of the card">{"".join(chips)}</ul>' if chips else ""


def _is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.scheme or parts.netloc)
