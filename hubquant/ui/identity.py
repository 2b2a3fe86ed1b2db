"""Who a request is from. The server decides it by the session and by tokens that the Hub knows, by nothing that a
visitor may type."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hubquant.errors import UserError
from hubquant.hub.access import Token
from hubquant.jobs.job import LOCAL
from hubquant.recent import Recent

REMEMBERED = 300.0  # seconds for which a token's account is not asked for again
MOST = 1000


@dataclass(frozen=True)
class Visitor:
    """``owner`` is whose jobs they are, None for somebody who is not signed in; ``name`` is for the page. Without a
    token of its own a visitor of a Space has False, which is none in any case."""

    owner: str | None
    name: str | None
    token: Token = field(default=False, repr=False)

    @property
    def is_local(self) -> bool:
        return self.owner == LOCAL

    def known(self) -> str:
        """The owner. Raises ``UserError`` for somebody who is not signed in."""
        if self.owner is None:
            raise UserError("you are not signed in", hint="sign in with Hugging Face, at the top of the page")
        return self.owner


class Identity(Protocol):
    def visitor(self, request: Any) -> Visitor:
        """``request`` is gradio's or starlette's."""
        ...


class OneUser:
    """The app on one's own machine: everybody who reaches it is its user. A token that is typed in stays in this
    process's memory; without one the machine's own login is used."""

    def __init__(self) -> None:
        self._token: str | None = None
        self._name: str | None = None

    def visitor(self, request: Any) -> Visitor:  # noqa: ARG002
        return Visitor(LOCAL, self._name, self._token)

    def sign_in(self, token: str) -> str:
        """The account's name; an empty token signs out. Raises ``HubAccessError``."""
        from hubquant.hub.identity import account_of

        self._name = account_of(token)[1] if token else None
        self._token = token or None
        return self._name or ""


class ByHub:
    """A Space: accounts of the Hub, by OAuth in a browser, or by the bearer token of a program.

    Owners are named by the account's id, which is never given to somebody else; its name may be.
    """

    def __init__(self) -> None:
        self._accounts: Recent[tuple[str, int], tuple[str, str]] = Recent(MOST)

    def visitor(self, request: Any) -> Visitor:
        info = _session(request).get("oauth_info")
        if isinstance(info, Mapping) and info.get("expires_at", 0) > time.time():
            user = info["userinfo"]
            return Visitor(f"hub:{user['sub']}", user["preferred_username"], info["access_token"])
        for name in ("x-hf-authorization", "authorization"):
            if (token := request.headers.get(name, "").removeprefix("Bearer ").strip()).startswith("hf_"):
                return self._of_token(token)
        return Visitor(None, None)

    def _of_token(self, token: str) -> Visitor:
        from hubquant.hub.identity import account_of

        key = hashlib.sha256(token.encode()).hexdigest(), int(time.time() / REMEMBERED)
        id, name = self._accounts.get(key, lambda: account_of(token))
        return Visitor(f"hub:{id}", name, token)


def _session(request: Any) -> Mapping[str, Any]:
    scope = getattr(getattr(request, "request", request), "scope", {})
    found: Mapping[str, Any] = scope.get("session") or {}
    return found
