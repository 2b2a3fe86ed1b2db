"""``--log-file``, ``--verbose``, the events of ``--json``, ``env`` and completion."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hubquant.redaction import without_secrets
from tests.support.cli import hubquant
from tests.support.localhub import ALICE, LocalHub

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
LINE = ("--types", "Q8_0", "--set", "imatrix.skip=true", "--set", "evaluate.skip=true")


def lines(path: Path) -> list[str]:
    found = path.read_text("utf-8").splitlines()
    assert all(STAMP.match(line) for line in found)
    return [STAMP.sub("", line, count=1) for line in found]


def test_a_log_has_what_stderr_shows(tiny_llama: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    outcome = hubquant("run", str(tiny_llama), *LINE, "--out", str(tmp_path / "out"), "--log-file", str(log))
    assert outcome.code == 0, outcome.err
    first, *rest = lines(log)
    assert first.startswith("hubquant 0.")
    assert rest == outcome.err.splitlines()
    assert any(line.startswith("quantize: ") for line in rest)

    quiet = hubquant("run", str(tiny_llama), *LINE, "--out", str(tmp_path / "out"), f"--log-file={log}", "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert any("(done before)" in line for line in lines(log)[len(rest) + 1 :])

    failed = hubquant("run", str(tmp_path / "none"), "--log-file", str(log), "--json")
    assert failed.code == 2
    assert json.loads(lines(log)[-1])["event"] == "error"


def test_a_log_that_cannot_be_written(tmp_path: Path, hostile_gguf: Path) -> None:
    outcome = hubquant("inspect", str(hostile_gguf), "--log-file", str(tmp_path))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err


def test_bars_of_a_terminal_are_lines_in_the_log(tiny_llama: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    log = tmp_path / "run.log"
    line = ["run", str(tiny_llama), *LINE, "--out", str(tmp_path / "out"), "--log-file", str(log)]
    process = subprocess.Popen([sys.executable, "-m", "hubquant", *line], stderr=slave, stdout=subprocess.DEVNULL)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 1 << 16)
        except OSError:
            break
    assert process.wait(60) == 0
    assert b"\x1b[" in shown
    assert not any("\x1b" in line for line in lines(log))
    assert any(line.startswith("quantize: ") for line in lines(log))


def test_verbose_has_times_and_what_libraries_log(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    outcome = hubquant("plan", "org/tiny", *LINE, "--verbose")
    assert outcome.code == 0
    assert all(STAMP.match(line) for line in outcome.err.splitlines())
    assert "HTTP Request: GET" in outcome.err
    assert ALICE not in outcome.err
    events = [json.loads(line) for line in hubquant("plan", "org/tiny", *LINE, "--verbose", "--json").err.splitlines()]
    assert any("HTTP Request" in event.get("text", "") for event in events)
    assert "HTTP Request" not in hubquant("plan", "org/tiny", *LINE).err


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Authorization: Bearer {ALICE}", "Authorization: "),
        ("HF_TOKEN=hf_abcdefghijkl", "HF_TOKEN="),
        ("signed in with hf_oauth_eyJhbGci.eyJzdWIi-x_y.eyJz now", " now"),
        ("GET https://cdn.example/a?X-Amz-Signature=0123abcd&e=1 200", "GET https://cdn.example/a?"),
        ("proxy http://me:secret@proxy:3128", "proxy:3128"),
    ],
)
def test_nothing_secret_is_logged(text: str, kept: str) -> None:
    shown = without_secrets(text)
    assert kept in shown
    assert not re.search(r"hf_\w{4}|secret|0123abcd|eyJ", shown)


def test_json_begins_and_ends_with_an_event(hub: LocalHub, tiny_llama: Path) -> None:
    hub.add("org/tiny", tiny_llama)
    hub.fail("GET /api/models/org/tiny", 429, headers={"Retry-After": "0"})
    events = [json.loads(line) for line in hubquant("plan", "org/tiny", *LINE, "--json").err.splitlines()]
    assert (events[0]["event"], events[0]["command"]) == ("start", "plan")
    assert events[0]["version"]
    assert events[-1]["event"] == "done"
    assert (events[-1]["code"], events[-1]["elapsed"] >= 0) == (0, True)
    [retry] = [event for event in events if event["event"] == "retry"]
    assert (retry["attempt"], retry["wait"]) == (1, 0)


def test_retries_of_the_client_are_told_too(hub: LocalHub, tiny_llama: Path, tmp_path: Path) -> None:
    hub.fail("PUT /_lfs", 503)
    line = ["run", str(tiny_llama), *LINE, "--out", str(tmp_path / "out"), "--push", "alice/tiny-GGUF"]
    outcome = hubquant(*line, "--json")
    assert outcome.code == 0, outcome.err
    events = [json.loads(line) for line in outcome.err.splitlines()]
    [retry] = [event for event in events if event["event"] == "retry"]
    assert (retry["attempt"], retry["wait"]) == (1, 1)
    assert "HTTP Error" not in outcome.err


def test_env_tells_of_the_machine_and_of_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HUBQUANT_HOME", str(tmp_path / "kept"))
    monkeypatch.chdir(tmp_path)
    shown = hubquant("env").out
    found = json.loads(hubquant("env", "--json").out)
    assert found["packages"]["torch"]
    assert found["processor"]
    assert found["store"]["path"] == "~/kept/store"
    for text in (shown, json.dumps(found)):
        assert ALICE not in text
        assert str(tmp_path) not in text


def complete(words: str, env: Mapping[str, str] = {}) -> list[str]:
    settings = {"_HUBQUANT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    line = [sys.executable, "-c", "from hubquant.cli import main; main()"]
    done = subprocess.run(line, env={**os.environ, **settings, **env}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_line_that_is_being_typed_is_completed() -> None:
    assert {"run", "batch", "imatrix", "watch"} <= set(complete("hubquant "))
    assert complete("hubquant imatrix c") == ["collect", "convert"]
    assert "--create-pr" in complete("hubquant run org/x --cr")
    assert {"exact", "best"} <= set(complete("hubquant quantize m --mode "))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(shell: str) -> None:
    settings = {"_HUBQUANT_COMPLETE": f"source_{shell}"}
    line = [sys.executable, "-c", "from hubquant.cli import main; main()"]
    done = subprocess.run(line, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "hubquant" in done.stdout
