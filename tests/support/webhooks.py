"""Webhooks as the Hub posts them."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from hubquant.hub.webhooks import PATH

SECRET = "a secret of this test"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def event(
    name: str = "org/model",
    *,
    kind: str = "model",
    action: str = "update",
    scope: str = "repo.content",
    refs: Sequence[str] | None = ("refs/heads/main",),
) -> dict[str, Any]:
    """A payload of the Hub's webhooks, version 3: https://huggingface.co/docs/hub/webhooks#webhook-payloads."""
    url = f"https://huggingface.co/{name}"
    body: dict[str, Any] = {
        "event": {"action": action, "scope": scope},
        "repo": {
            "type": kind,
            "name": name,
            "id": "621ffdc036468d709f17434d",
            "private": False,
            "url": {"web": url, "api": f"https://huggingface.co/api/{kind}s/{name}"},
            "headSha": "0" * 40,
            "owner": {"id": "61d2000c3c2083e1c08af22d"},
        },
        "webhook": {"id": "6390e855e30d9209411de93b", "version": 3},
    }
    if refs is not None:
        body["updatedRefs"] = [{"ref": ref, "oldSha": "0" * 40, "newSha": "1" * 40} for ref in refs]
    return body


def post(port: int, body: Any, secret: str | None = SECRET) -> tuple[int, Any]:
    """The status and the answer."""
    headers = {"Content-Type": "application/json"} | ({} if secret is None else {"X-Webhook-Secret": secret})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
