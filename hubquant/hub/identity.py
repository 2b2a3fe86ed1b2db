"""Whose token it is."""

from __future__ import annotations

from huggingface_hub import HfApi

from hubquant.errors import HubUnavailableError
from hubquant.hub.failures import hub_errors
from hubquant.hub.retry import PATIENT
from hubquant.typed import Typed, read_typed


class _Account(Typed):
    id: str
    name: str


def account_of(token: str) -> tuple[str, str]:
    """The account's id, which is never given to another one, and its name. Raises ``HubAccessError`` for a token that
    the Hub does not know."""
    with hub_errors("the account", token=token):
        found = read_typed(_Account, PATIENT.call(HfApi(token=token).whoami), "the Hub's answer", HubUnavailableError)
    return found.id, found.name
