"""``hubquant watch --webhook``: webhooks posted to the running command, from the local Hub to the local Hub."""

from __future__ import annotations

import signal
import threading
import time
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cli import hubquant
from tests.support.localhub import LocalHub
from tests.support.webhooks import SECRET, event, free_port, post

SMALL = ("--set", "imatrix.skip=true", "--set", "evaluate.skip=true", "--types", "Q8_0")


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        return post(port, event(), "wrong")[0] == 403
    except urllib.error.URLError:
        return False


def test_a_webhook_makes_what_is_new_and_nothing_twice(
    hub: LocalHub, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/one", tiny_llama)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    port, main = free_port(), threading.get_ident()

    def looks() -> int:
        return len(hub.requests("GET /api/models$"))

    def commits() -> dict[str, int]:
        mine = {id: each for (_, id), each in dict(hub.repositories).items() if id.startswith("alice/")}
        return {id: len(list(each.history("main"))) for id, each in mine.items()}

    def the_hub() -> list[tuple[int, int]]:
        """What was answered to each webhook, and how often the account had been looked at when nothing else was due."""
        try:
            until(lambda: commits() == {"alice/one-GGUF": 2})
            until(lambda: answers(port))
            hub.add("org/two", tiny_llama)
            found = [
                (post(port, event("org/two"), "wrong")[0], looks()),
                (post(port, event("other/two"))[0], looks()),
                (post(port, event("org/two", action="create", scope="repo"))[0], 0),
            ]
            until(lambda: commits() == {"alice/one-GGUF": 2, "alice/two-GGUF": 2})
            post(port, event("org/two"))  # once more
            until(lambda: looks() == 3)
            return found
        finally:
            signal.pthread_kill(main, signal.SIGTERM)  # as it waits: raised in this thread it would not wake

    places = ("--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--push", "alice/{model}-GGUF")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(the_hub)
        line = ("watch", "org", *SMALL, *places, "--go", "--webhook", "--port", str(port), "--every", "30d")
        outcome = hubquant(*line, "--json", "--verbose")
    assert found.result() == [(403, 1), (200, 1), (200, 0)]
    assert outcome.code == 143, outcome.err
    assert [line.count('"status": "done"') for line in outcome.out.splitlines()] == [1, 1]
    assert commits() == {"alice/one-GGUF": 2, "alice/two-GGUF": 2}
    assert f"http://127.0.0.1:{port}/webhooks/watch" in outcome.err
    assert SECRET not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--go", "--webhook"), "webhooks need a secret"),
        (("--webhook",), "--webhook needs --go"),
        (("--go", "--once", "--webhook"), "--webhook needs --go"),
        (("--go", "--port", "8000"), "need --webhook"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    outcome = hubquant("watch", "org", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.is_one_message(), outcome.err
    assert message in outcome.err
