"""The app in a process of its own, and Debian's Chromium that walks through it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PATIENCE = 120_000  # milliseconds: what a busy machine may need
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@dataclass
class App:
    """``hubquant ui`` with its own ``state``; ``environment`` is added to this process's."""

    state: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    port: int = 0
    url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> App:
        command = [
            sys.executable,
            "-m",
            "hubquant",
            "ui",
            "--json",
            "--port",
            str(self.port),
            "--state",
            str(self.state),
        ]
        self.errors = self.state.with_suffix(".err").open("a")
        self.process = subprocess.Popen(
            [*command, *self.arguments],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.state.with_suffix(".err").read_text()
        self.url = json.loads(line)["url"]
        self.port = urlsplit(self.url).port or 0
        return self

    def stop(self, how: int = signal.SIGINT) -> int:
        assert self.process
        self.process.send_signal(how)
        code = self.process.wait(60)
        self.errors.close()
        return code


def chromium() -> str:
    """Its path. Skips the test where there is none, but never in CI."""
    if CHROMIUM is None:
        assert not os.environ.get("CI"), "CI needs chromium: apt-get install chromium"
        pytest.skip("there is no chromium on this machine")
    return CHROMIUM


@contextmanager
def launched() -> Iterator[Browser]:
    path = chromium()
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=[*arguments, "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watch:
    """What a page has done wrong: errors on its console, and requests that leave this machine."""

    wrong: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        context.on("console", lambda message: self._console(message.type, message.text))
        context.on("weberror", lambda error: self._error(str(error.error)))
        context.on("request", lambda request: self._request(request.url))

    def _console(self, kind: str, text: str) -> None:
        if kind == "error" and not any(part in text for part in self.expected):
            self.wrong.append(f"console: {text}")

    def _error(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.wrong.append(f"error: {text}")

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.wrong.append(f"request to {url}")


@contextmanager
def visiting(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page of its own context, which fails the test for what :class:`Watch` sees. ``page.watch`` has what is
    ``expected``."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(PATIENCE)
    watch = Watch()
    watch.over(context)
    page = context.new_page()
    page.watch = watch  # type: ignore[attr-defined]
    page.goto(url)
    page.locator(".hq-header").wait_for()  # what is chosen before the page has arrived may be lost
    try:
        yield page
    finally:
        context.close()
    assert not watch.wrong, watch.wrong


def eventually(check: Any, seconds: float = PATIENCE / 1000) -> Any:
    """The first true thing that ``check`` returns."""
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.1)
    return found
