"""What ``hubquant watch --webhook`` refuses before it listens; tests/hub/test_webhooks.py asks the server."""

from __future__ import annotations

import pytest

from tests.support.cli import hubquant


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
