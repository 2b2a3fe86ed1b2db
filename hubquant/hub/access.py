"""Whose token a request is made with."""

from __future__ import annotations

from typing import Literal

from huggingface_hub import get_token

Token = str | Literal[False] | None
"""A token; None is this machine's own (HF_TOKEN, ``hf auth login``), if it has one, and False is none in any case. Who
serves several people passes each one's token, or False, so that none of them sees what the machine's may."""


def has_token(token: Token) -> bool:
    return bool(get_token() if token is None else token)
