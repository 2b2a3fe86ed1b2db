from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import App, launched


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """Not yet started: a test may change its environment."""
    made = App(tmp_path / "state", {"HUBQUANT_HOME": str(tmp_path / "home")})
    yield made
    if made.process and made.process.poll() is None:
        made.stop()
