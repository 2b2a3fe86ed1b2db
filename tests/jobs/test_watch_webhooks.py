"""``hubquant watch --webhook`` as a process of its own; tests/hub/test_webhooks.py asks the server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
import urllib.error
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from hubquant.hub.webhooks import PATH
from tests.support import processes
from tests.support.cli import hubquant
from tests.support.localhub import ALICE, LocalHub
from tests.support.processes import command
from tests.support.webhooks import SECRET, event, free_port, post

Start = Callable[..., ForkServerProcess]
BOUND = 120  # seconds, of anything that takes two on an idle machine


def until(true: Callable[[], bool], process: ForkServerProcess) -> None:
    end = time.monotonic() + BOUND
    while not true():
        assert process.is_alive(), "it has ended"
        assert time.monotonic() < end
        time.sleep(0.05)


def stopped(process: ForkServerProcess, number: int) -> int | None:
    """Its exit code after the signal."""
    assert process.pid
    os.kill(process.pid, number)
    process.join(BOUND)
    return process.exitcode


def commits(hub: LocalHub) -> dict[str, int]:
    mine = {id: each for (_, id), each in dict(hub.repositories).items() if id.startswith("alice/")}
    mine = {id: each for id, each in mine.items() if each.branches}  # else it is being made
    return {id: len(list(each.history("main"))) for id, each in mine.items()}


def answers(port: int) -> bool:
    try:
        return post(port, event(), "wrong")[0] == 403
    except urllib.error.URLError:
        return False


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """``watch org`` at a port."""
    started: list[ForkServerProcess] = []
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)

    def begin(port: int, *words: str) -> ForkServerProcess:
        recipe = tmp_path / "ladder.yaml"
        recipe.write_text("quantize: {types: [Q8_0]}\nimatrix: {skip: true}\nevaluate: {skip: true}\n")
        places = ("--recipe", str(recipe), "--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), *words)
        line = ("watch", "org", *places, "--go", "--webhook", "--port", str(port), "--every", "30d")
        process = processes.start(command, *line, out=tmp_path / "stdout", err=tmp_path / "stderr")
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def test_a_webhook_makes_what_is_new_and_nothing_twice(
    hub: LocalHub, start: Start, tiny_llama: Path, tmp_path: Path
) -> None:
    hub.add("org/one", tiny_llama)
    port = free_port()
    process = start(port, "--push", "alice/{model}-GGUF", "--json", "--verbose", "--log-file", str(tmp_path / "log"))

    def looks() -> int:
        return len(hub.requests("GET /api/models$"))

    until(lambda: commits(hub) == {"alice/one-GGUF": 2}, process)
    until(lambda: answers(port), process)
    hub.add("org/two", tiny_llama)
    assert [post(port, event("org/two"), "wrong")[0], post(port, event("other/two"))[0], looks()] == [403, 200, 1]
    assert post(port, event("org/two", action="create", scope="repo")) == (200, {"taken": True})
    until(lambda: commits(hub) == {"alice/one-GGUF": 2, "alice/two-GGUF": 2}, process)
    until(lambda: (tmp_path / "stdout").read_text().count('"status": "done"') == 2, process)
    post(port, event("org/two"))  # once more
    until(lambda: looks() == 3, process)

    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND)
    headers = {"Content-Type": "application/json", "X-Webhook-Secret": SECRET}
    kept.request("POST", PATH, json.dumps(event("other/two")), headers)
    assert kept.getresponse().read() == b'{"taken":false}'
    assert stopped(process, signal.SIGTERM) == 143
    kept.close()
    assert commits(hub) == {"alice/one-GGUF": 2, "alice/two-GGUF": 2}
    out, err = (tmp_path / "stdout").read_text(), (tmp_path / "stderr").read_text()
    assert json.loads(err.splitlines()[-1])["event"] == "interrupted"
    assert f"http://127.0.0.1:{port}/webhooks/watch" in err
    assert [len(json.loads(line)["models"]) for line in out.splitlines()] == [1, 1]
    written = [out, err, (tmp_path / "log").read_text(), (tmp_path / "state").read_text()]
    assert not any(secret in text for secret in (SECRET, ALICE) for text in written)


def test_it_ends_whoever_has_sent_half_a_request(hub: LocalHub, start: Start, tiny_llama: Path, tmp_path: Path) -> None:
    hub.add("org/one", tiny_llama)
    port = free_port()
    process = start(port)
    until(lambda: "quantize: Q8_0" in (tmp_path / "stderr").read_text(), process)
    with socket.create_connection(("127.0.0.1", port), timeout=BOUND) as half:
        half.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{{".encode())
        assert stopped(process, signal.SIGINT) == 130  # as it works
    assert "it continues where it stopped" in (tmp_path / "stderr").read_text()


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
