"""Webhooks as the Hub posts them, to the running server."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from hubquant.errors import UserError
from hubquant.hub.webhooks import Webhooks, served
from tests.support.webhooks import SECRET, event, free_port, post


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Webhooks, int]]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEBHOOK_SECRET", SECRET)
        with served("Org", "127.0.0.1", port) as webhooks:
            yield webhooks, port


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"action": "create", "scope": "repo"},
        {"name": "org/other"},
        {"refs": ["refs/heads/side", "refs/heads/main"]},
        {"refs": None},
    ],
)
def test_an_event_of_the_account_ends_the_pause_once(server: tuple[Webhooks, int], changes: dict[str, Any]) -> None:
    webhooks, port = server
    assert post(port, event(**changes)) == (200, {"taken": True})
    assert post(port, event(**changes)) == (200, {"taken": True})
    assert webhooks.wait(60)
    assert not webhooks.wait(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other/model"},
        {"name": "organization/model"},
        {"kind": "dataset"},
        {"scope": "repo.config"},
        {"scope": "discussion", "action": "create"},
        {"scope": "repo", "action": "delete"},
        {"refs": ["refs/pr/1"]},
    ],
)
def test_other_events_are_none(server: tuple[Webhooks, int], changes: dict[str, Any]) -> None:
    webhooks, port = server
    assert post(port, event(**changes)) == (200, {"taken": False})
    assert not webhooks.wait(0)


@pytest.mark.parametrize(("secret", "status"), [(None, 401), ("wrong", 403), ("", 403)])
def test_who_does_not_know_the_secret_starts_nothing(
    server: tuple[Webhooks, int], secret: str | None, status: int
) -> None:
    webhooks, port = server
    assert post(port, event(), secret)[0] == status
    assert not webhooks.wait(0)


def test_a_body_that_is_no_event_starts_nothing(server: tuple[Webhooks, int]) -> None:
    webhooks, port = server
    assert post(port, {"event": "any"})[0] == 422
    assert not webhooks.wait(0)


@pytest.mark.parametrize("path", ["/config", "/gradio_api/info"])
def test_gradio_s_own_pages_are_closed(server: tuple[Webhooks, int], path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{server[1]}{path}", timeout=60)
    assert caught.value.code == 401


def test_a_login_is_never_right(server: tuple[Webhooks, int]) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{server[1]}/login", b"username=a&password=b")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == 400


def test_a_port_in_use(server: tuple[Webhooks, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    with pytest.raises(UserError, match="cannot be taken") as caught, served("org", "127.0.0.1", server[1]):
        pass
    assert "--port" in str(caught.value.hint)


@pytest.mark.parametrize("value", [None, ""])
def test_no_secret_no_server(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("WEBHOOK_SECRET", value)
    with pytest.raises(UserError, match="webhooks need a secret"), served("org", "127.0.0.1", free_port()):
        pass


def test_without_gradio_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="webhooks need gradio") as caught, served("org", "127.0.0.1", free_port()):
        pass
    assert "pip install 'hubquant[ui]'" in str(caught.value.hint)


def test_nothing_listens_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    port = free_port()
    with served("org", "127.0.0.1", port):
        assert post(port, event())[0] == 200
    with pytest.raises(urllib.error.URLError):
        post(port, event())
