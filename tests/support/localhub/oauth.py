"""Signing in: OpenID Connect as a Space uses it (https://huggingface.co/docs/hub/oauth). The visitor's browser shows a
page on which he chooses who he is."""

from __future__ import annotations

import secrets
import time
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.responses import HTMLResponse, JSONResponse, Response

from tests.support.localhub.state import Account, Refusal

if TYPE_CHECKING:
    from tests.support.localhub.server import Call, LocalHub

CLIENT, SECRET = "client-of-the-space", "secret-of-the-space"
SCOPES = "openid profile read-repos write-repos manage-repos"
_codes: dict[str, tuple[str, str]] = {}
_keys: list[RSAKey] = []


def environment(hub: LocalHub) -> dict[str, str]:
    """Of a process that runs as a Space of this Hub."""
    return {
        "SYSTEM": "spaces",
        "SPACE_ID": "org/hubquant",
        "OAUTH_CLIENT_ID": CLIENT,
        "OAUTH_CLIENT_SECRET": SECRET,
        "OAUTH_SCOPES": SCOPES,
        "OPENID_PROVIDER_URL": hub.url,
    }


def configuration(hub: LocalHub, call: Call) -> Response:  # noqa: ARG001
    return JSONResponse(
        {
            "issuer": hub.url,
            "authorization_endpoint": f"{hub.url}/oauth/authorize",
            "token_endpoint": f"{hub.url}/oauth/token",
            "userinfo_endpoint": f"{hub.url}/oauth/userinfo",
            "jwks_uri": f"{hub.url}/oauth/jwks",
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
        }
    )


def jwks(hub: LocalHub, call: Call) -> Response:  # noqa: ARG001
    return JSONResponse({"keys": [_key().as_dict(private=False)]})


def authorize(hub: LocalHub, call: Call) -> Response:
    asked = call.query
    if asked.get("client_id") != CLIENT or asked.get("scope") != SCOPES:
        raise Refusal(400, "unknown client or scope")
    links = []
    for user in sorted({account.user for account in hub.tokens.values()}):
        code = secrets.token_urlsafe()
        _codes[code] = user, asked.get("nonce", "")
        back = f"{asked['redirect_uri']}&{urlencode({'code': code, 'state': asked['state']})}"
        links.append(f'<p><a href="{escape(back)}">Sign in as {escape(user)}</a></p>')
    return HTMLResponse(f"<!doctype html><link rel=icon href='data:,'><title>Sign in</title>{''.join(links)}")


def token(hub: LocalHub, call: Call) -> Response:
    given = dict(parse_qsl(call.body.decode()))
    user, nonce = _codes.pop(given["code"])
    access = f"hf_oauth_{secrets.token_urlsafe(24)}"
    hub.tokens = {**hub.tokens, access: Account(user)}
    now = int(time.time())
    claims = {
        "iss": hub.url,
        "aud": CLIENT,
        "sub": user,
        "name": user.title(),
        "preferred_username": user,
        "profile": f"{hub.url}/{user}",
        "picture": f"{hub.url}/avatar.png",
        "iat": now,
        "exp": now + 3600,
        "nonce": nonce,
    }
    signed = jwt.encode({"alg": "RS256", "kid": _key().kid}, claims, _key())
    return JSONResponse(
        {"access_token": access, "token_type": "bearer", "expires_in": 28_800, "scope": SCOPES, "id_token": signed}
    )


def _key() -> RSAKey:
    if not _keys:
        _keys.append(RSAKey.generate_key(2048, {"kid": "test", "use": "sig", "alg": "RS256"}))
    return _keys[0]
