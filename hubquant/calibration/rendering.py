"""The other process of :mod:`hubquant.calibration.chat`."""

from __future__ import annotations

from typing import Any

from transformers.utils import chat_template_utils

LONGEST = 1 << 24  # characters

_library: Any = chat_template_utils


def render(template: str, special: dict[str, str], conversation: list[dict[str, str]]) -> str:
    """What ``apply_chat_template`` does with ``tokenize=False``. Raises ``ValueError`` for more than ``LONGEST``
    characters, and whatever the template raises."""
    rendered, _ = _library.render_jinja_template([conversation], chat_template=template, **special)
    text = str(rendered[0])
    if len(text) > LONGEST:
        raise ValueError(f"it makes {len(text):,} characters of it")
    return text
