"""What every request and every answer passes: whose page may ask, and what a page may load."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # gradio's own pages need all of it
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEY = "hubquant_key"


class Guard:
    """Refuses requests that another site's page makes with its visitor's cookies, and has browsers load nothing from
    elsewhere.

    ``hosts`` are the names that the app is reached by, None for any: a page of another name that resolves to this
    machine is refused. With a ``key`` a browser needs the address that holds it, once; programs send it as a bearer.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None, key: str | None = None) -> None:
        self._app, self._hosts, self._key = app, hosts, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
            await send(message)

        answer = self._refusal(Headers(scope=scope), scope) or self._app
        await answer(scope, receive, send_with_policy)

    def _refusal(self, headers: Headers, scope: Scope) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and urlsplit(f"//{host}").hostname not in self._hosts:
            return PlainTextResponse("hubquant is not reached by this name\n", 403)
        if origin is not None and urlsplit(origin).netloc not in (host, headers.get("x-forwarded-host")):
            return PlainTextResponse("another site's page may not ask this\n", 403)
        return None if self._key is None else self._without_key(headers, scope)

    def _without_key(self, headers: Headers, scope: Scope) -> Response | None:
        key = self._key or ""
        morsel = SimpleCookie(headers.get("cookie", "")).get(KEY)
        bearers = [headers.get(name, "").removeprefix("Bearer ") for name in ("authorization", "x-hf-authorization")]
        if any(_same(given, key) for given in (morsel.value if morsel else "", *bearers)):
            return None
        [asked] = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[:1]
        if not _same(asked, key):
            return PlainTextResponse("open the address that hubquant ui has printed: it holds a key\n", 401)
        answer = RedirectResponse(scope.get("root_path", "") + "/", 303)
        answer.set_cookie(KEY, key, httponly=True, samesite="strict")
        return answer


def _same(given: str, key: str) -> bool:
    return secrets.compare_digest(given.encode(), key.encode())
