"""Texts without the tokens that may be in them."""

from __future__ import annotations

import re

# an OAuth token of the Hub is hf_oauth_ and a JWT, which has dots and dashes
_TOKEN = re.compile(r"\bhf_oauth_[\w.-]{4,}|\b(?:hf|api)_[A-Za-z0-9_]{4,}|(?<=Bearer )\S+|(?<=://)[^/\s@]+@")
_WHOLE = re.compile(r"\bhf_oauth_[\w.-]{30,}|\bhf_[A-Za-z0-9]{30,}")  # nothing else: a model may be called hf_model
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']+")  # signatures of addresses that open what is private


def without_secrets(text: str) -> str:
    return _QUERY.sub(r"\1?…", _TOKEN.sub("***", text))


def without_tokens(text: str) -> str:
    """For a message, where what the user has typed stays readable."""
    return _WHOLE.sub("***", text)
