"""The other process of :mod:`hubquant.calibration.chat`."""

from __future__ import annotations

from typing import Any

from transformers.utils import chat_template_utils

LONGEST = 1 << 24  # characters

SYSTEM, USER = "{system_prompt}", "{prompt}"
# hides transformers' function of that name: what is rendered is the same tomorrow
_DATE = "{% macro strftime_now(format) %}{{ '{date}' }}{% endmacro %}"

_library: Any = chat_template_utils


def render(template: str, special: dict[str, str], conversation: list[dict[str, str]]) -> str:
    """What ``apply_chat_template`` does with ``tokenize=False``. Raises ``ValueError`` for more than ``LONGEST``
    characters, and whatever the template raises."""
    rendered, _ = _library.render_jinja_template([conversation], chat_template=template, **special)
    return _checked(str(rendered[0]))


def render_prompt(template: str, special: dict[str, str]) -> str:
    """What a model gets to read before its answer, with ``SYSTEM`` and ``USER`` in the places of texts.

    Without a system message where the template refuses one. Raises whatever the template raises.
    """
    user = {"role": "user", "content": USER}
    settings = {**special, "chat_template": _DATE + template, "add_generation_prompt": True}

    def of(*messages: dict[str, str]) -> str:
        rendered, _ = _library.render_jinja_template([list(messages)], **settings)
        return _checked(str(rendered[0]))

    try:
        return of({"role": "system", "content": SYSTEM}, user)
    except Exception:  # a template's own refusal has no class of its own
        return of(user)


def _checked(text: str) -> str:
    if len(text) > LONGEST:
        raise ValueError(f"it makes {len(text):,} characters of it")
    return text
