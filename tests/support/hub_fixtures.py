"""A fresh local Hub for each test, at the endpoint that tests/conftest.py gave to huggingface_hub before its import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.localhub import ALICE, LocalHub

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    port = urlsplit(os.environ["HF_ENDPOINT"]).port
    assert port
    with LocalHub(tmp_path_factory.mktemp("hub"), port=port) as server:
        yield server


@pytest.fixture
def hub(hub_server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """An empty Hub and an empty cache; requests are made as Alice unless the test sets HF_TOKEN to something else."""
    monkeypatch.setenv("HF_TOKEN", ALICE)
    shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub", ignore_errors=True)
    hub_server.reset(tmp_path / "hub-storage")
    return hub_server


@pytest.fixture
def run_python(hub: LocalHub) -> Run:  # noqa: ARG001
    """Run Python in another process with this one's Hub, cache and token; ``None`` removes an environment variable."""

    def run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, **environment}
        return subprocess.run(
            [sys.executable, *arguments],
            env={key: value for key, value in variables.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
