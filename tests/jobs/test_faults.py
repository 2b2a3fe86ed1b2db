"""A batch of ten models on a bad day: nothing is lost, and nothing is made twice."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.support.cli import hubquant
from tests.support.hub_models import add_models
from tests.support.localhub import LocalHub
from tests.support.processes import command, start

N = 10
NOTE = "note.txt"
PUBLISHED = r"/api/models/alice/m\d-GGUF"

pytestmark = pytest.mark.slow


@pytest.fixture
def models(hub: LocalHub, tmp_path: Path) -> LocalHub:
    return add_models(hub, tmp_path, N)


def test_ten_models_on_a_bad_day(models: LocalHub, tmp_path: Path) -> None:
    hub = models
    (tmp_path / "models.txt").write_text("".join(f"org/m{number}\n" for number in range(N)))
    line = [
        *("batch", str(tmp_path / "models.txt"), "--types", "Q8_0,Q4_0", "--push", "alice/{model}-GGUF"),
        *("--set", "imatrix.skip=true", "--set", "evaluate.skip=true", "--out", str(tmp_path / "out")),
        *("--state", str(tmp_path / "state.json"), "--add-to-collection", "Tiny ones"),
    ]
    running: list[BaseProcess] = []

    def kill(_: str) -> None:
        assert running[-1].pid
        os.kill(running[-1].pid, signal.SIGKILL)

    def another_commits(request: str) -> None:
        id = request.partition("/api/models/")[2].partition("/commit/")[0]
        hub.add(id, {NOTE: b"of somebody else"})

    soon = {"Retry-After": "1"}
    hub.fail("GET /api/models/org/m0", 429, headers=soon)
    hub.fail("GET .*_cdn", cut=100_000, times=3)
    hub.fail("GET .*_cdn", 503, after=3)
    hub.meanwhile("GET .*_cdn", kill, after=4)
    hub.fail("PUT /_lfs", 503, times=2)
    hub.fail("PUT /_lfs", cut=0, after=2)
    hub.meanwhile("PUT /_lfs", kill, after=6)
    hub.fail(f"POST {PUBLISHED}/commit/", 429, headers=soon)
    hub.fail(f"POST {PUBLISHED}/commit/", cut=0, after=1)
    hub.meanwhile(f"POST {PUBLISHED}/commit/", another_commits, times=2, after=1)
    hub.meanwhile(f"POST {PUBLISHED}/commit/", kill, after=3)
    hub.fail("POST /api/repos/create", cut=0, after=3)
    hub.fail("POST /api/collections", cut=0)
    hub.fail("POST /api/collections/.*/items", cut=0, after=2)
    hub.fail("POST /api/collections/.*/items", 503, after=5)
    hub.fail("GET /api/models/org/m8", 400)  # no client tries that again

    codes = []
    for _ in range(N):
        process = start(command, *line, "--quiet")
        running.append(process)
        process.join()
        codes.append(process.exitcode)
        if process.exitcode == 0:
            break
    assert codes == [-signal.SIGKILL] * 3 + [1, 0]
    assert not [fault.pattern.pattern for fault in hub.faults if fault.times]

    disturbed = 0
    for number in range(N):
        repository, folder = hub.repository(f"alice/m{number}-GGUF"), tmp_path / "out" / f"m{number}-GGUF"
        made = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        assert {f"m{number}-Q8_0.gguf", f"m{number}-Q4_0.gguf", "README.md", "recipe.yaml"} <= made.keys()
        files = {name: hub.content(repository.id, name) for name in repository.files}
        disturbed += files.pop(NOTE, b"") != b""
        del files[".gitattributes"]
        assert files == made
        titles = [commit.title for _, commit in repository.history("main") if commit.user == "alice"]
        assert titles == ["Publish quantized files", "initial commit"]
    assert disturbed == 2
    [collection] = hub.collections.values()
    assert sorted(item["id"] for item in collection["items"]) == [f"alice/m{number}-GGUF" for number in range(N)]

    before = len(hub.log)
    again = hubquant(*line, "--json")
    assert {each["status"] for each in json.loads(again.out)["models"]} == {"done before"}
    assert {entry.method for entry in hub.log[before:]} <= {"GET", "POST"}
    assert not [entry.line for entry in hub.log[before:] if "/commit/" in entry.path or "/items" in entry.path]
