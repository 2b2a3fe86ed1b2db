"""Tests talk to a Hub on this machine only: huggingface_hub reads its environment on import, so it is set here."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Bound but not listening: nobody else gets the port, and connections are refused while no test runs a Hub on it.
_reserved = socket.socket()
_reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
_reserved.bind(("127.0.0.1", 0))
_home = tempfile.TemporaryDirectory(prefix="hubquant-tests-")

os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{_reserved.getsockname()[1]}",
    HF_HOME=_home.name,
    HUBQUANT_HOME=f"{_home.name}/hubquant",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(_name, None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process that a test starts compiles the package again
for _name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # tests read what is written to a pipe
    os.environ.pop(_name, None)

# Two workers with two threads each would get in each other's way on two cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: a failure is the change's own.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

pytest_plugins = ["tests.support.hub_fixtures"]

CARD = """---
license: apache-2.0
language: [en]
pipeline_tag: text-generation
tags: [tiny]
---
# A tiny model
"""


@pytest.fixture(autouse=True, scope="module")
def _store_of_the_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests of one file made is not there for those of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUBQUANT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this test alone, empty at first."""
    monkeypatch.setenv("HUBQUANT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "store"


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hubquant.models.tiny import build

    folder = build("llama", tmp_path_factory.mktemp("models") / "tiny-llama")
    (folder / "README.md").write_text(CARD, "utf-8")
    return folder
