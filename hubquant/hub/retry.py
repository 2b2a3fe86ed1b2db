"""Waiting and trying again, for the requests that huggingface_hub itself gives up on at the first failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers

T = TypeVar("T")
logger = logging.getLogger(__name__)

TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
TRANSIENT_ERRORS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


# http_backoff makes its request itself, and HfApi's own (model_info, create_commit, whoami) go without it
# (test_failures.py: an outage is waited out).
@dataclass(frozen=True)
class Retry:
    """``attempts`` without progress, with waits in seconds that double from ``first_wait`` up to ``longest_wait``.

    A wait that the server asks for (Retry-After, RateLimit) is kept instead, up to ``longest_asked``. Where no
    connection comes about at all, ``connect_attempts`` are enough to tell a hiccup from no network.
    """

    attempts: int = 5
    connect_attempts: int = 2
    first_wait: float = 1.0
    longest_wait: float = 30.0
    longest_asked: float = 300.0
    sleep: Callable[[float], None] = time.sleep

    def call(self, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """The result of ``action``; its last error once that many attempts in a row failed without any ``progress``."""
        failures, reached = 0, progress()
        while True:
            try:
                return action()
            except Exception as error:
                if not is_transient(error):
                    raise
                failures = 1 if progress() > reached else failures + 1
                reached = progress()
                if failures >= (self.connect_attempts if isinstance(error, httpx2.ConnectError) else self.attempts):
                    raise
                wait = self._wait(failures, error)
                logger.warning(
                    "the Hub %s: trying again in %g s",
                    _symptom(error),
                    wait,
                    extra={"retry": {"attempt": failures, "wait": wait}},
                )
                self.sleep(wait)

    def persistent(self) -> Retry:
        """For long work, where a network that comes back is worth waiting for."""
        return replace(self, connect_attempts=self.attempts)

    def _wait(self, failures: int, error: BaseException) -> float:
        asked = asked_wait(error)
        if asked is not None:
            return min(asked, self.longest_asked)
        return min(self.first_wait * 2.0 ** (failures - 1), self.longest_wait)


PATIENT = Retry()


def is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT_STATUS
    return isinstance(error, TRANSIENT_ERRORS)


def _symptom(error: BaseException) -> str:
    if isinstance(error, HfHubHTTPError):
        return f"answers with status {error.response.status_code}"
    return "cannot be reached" if isinstance(error, httpx2.ConnectError) else "broke the connection"


def asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asks to wait, if it does."""
    if not isinstance(error, HfHubHTTPError):
        return None
    after = error.response.headers.get("Retry-After", "")
    if after.isdigit():
        return float(after)
    limit = parse_ratelimit_headers(error.response.headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else None
