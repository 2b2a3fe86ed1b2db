"""A server that answers with anything is no Hub, and that is said in one sentence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

from hubquant.errors import HubUnavailableError
from hubquant.hub.answers import account
from hubquant.hub.pull import resolve
from hubquant.hub.push import can_write

MODEL = {"id": "a/b", "sha": "0" * 40, "siblings": [{"rfilename": "config.json", "size": 5}]}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What the server answers to everything."""
    bodies: list[bytes] = [b"{}"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(bodies[0])))
            self.end_headers()
            self.wfile.write(bodies[0])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield bodies
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        [1],
        7,
        None,
        "x",
        b"",
        b"<html>",
        b"\xff",
        b"[" * 100_000,
        MODEL | {"siblings": 3},
        MODEL | {"siblings": [3]},
        MODEL | {"siblings": [{}]},
        MODEL | {"siblings": [{"rfilename": 3}]},
        MODEL | {"siblings": [{"rfilename": "a", "size": "5"}]},
        MODEL | {"siblings": [{"rfilename": "a", "size": 5, "lfs": 7}]},
        MODEL | {"sha": 7},
        MODEL | {"sha": "../../x"},
        MODEL | {"tags": [1]},
    ],
)
def test_any_answer_is_one_error(answer: list[bytes], content: Any) -> None:
    answer[0] = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(HubUnavailableError) as caught:
        resolve("a/b")
    assert "HF_ENDPOINT" in str(caught.value.hint)
    with pytest.raises(HubUnavailableError):
        can_write("me/b")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "name is missing"),
        ([1], "its content is"),
        ({"name": 1}, "name is 1, not a text"),
        ({"name": "a", "orgs": {}}, "orgs is {}, not a list"),
        ({"name": "a", "orgs": [{"name": []}]}, "orgs.0.name is"),
        ({"name": "a", "auth": {"accessToken": {"role": 1}}}, "auth.accessToken.role is 1"),
    ],
)
def test_the_key_is_named(content: Any, why: str) -> None:
    with pytest.raises(HubUnavailableError, match=why):
        account(content)
