"""Fifty jobs of two users, each with its own bad luck: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from hubquant.jobs.job import FINISHED, Job, Limits
from hubquant.jobs.queue import Queue
from tests.support.hub_models import add_models
from tests.support.jobs import SMALL, Apps, until
from tests.support.localhub import ALICE, BOB, LocalHub

N = 50
MODELS = 5
NOTE = "note.txt"
TOKENS = {"alice": ALICE, "bob": BOB}
LIMITS = Limits(jobs=N, running=2)

pytestmark = pytest.mark.slow


@pytest.fixture
def models(hub: LocalHub, tmp_path: Path) -> LocalHub:
    return add_models(hub, tmp_path, MODELS)


def test_fifty_jobs_on_bad_days(models: LocalHub, store: Path, tmp_path: Path) -> None:
    hub, queue = models, Queue(tmp_path / "ui", LIMITS)
    apps, killed = Apps(queue.folder, store), {"apps": 0, "workers": 0}
    jobs: list[Job] = []

    def kill_app(_: str) -> None:
        apps.kill()
        killed["apps"] += 1

    def killing(number: int) -> Callable[[str], None]:
        def kill(_: str) -> None:
            with queue.database.reading() as db:
                [pid] = db.execute("SELECT pid FROM jobs WHERE id = ?", (jobs[number].id,)).fetchone()
            os.kill(pid, signal.SIGKILL)
            killed["workers"] += 1

        return kill

    def bad_luck(number: int, to: str) -> None:
        rng = Random(number)
        requests = ["GET /api/models/{}", "POST /api/models/{}/preupload", "POST /api/models/{}/commit"]
        for _ in range(2):
            request = rng.choice(requests).format(to)
            match rng.randrange(6):
                case 0:
                    hub.fail(request, 429, headers={"Retry-After": str(rng.randrange(2))})
                case 1:
                    hub.fail(request, 503, times=rng.randint(1, 2))
                case 2:
                    hub.fail(request, cut=0)
                case 3:
                    commit = f"POST /api/models/{to}/commit"
                    hub.meanwhile(commit, lambda _: hub.add(to, {NOTE: b"of somebody else"}))
                case 4:
                    hub.meanwhile(request, killing(number))
                case 5:
                    hub.meanwhile(request, kill_app)

    for number in range(N):
        owner = ("alice", "bob")[number % 2]
        to = f"{owner}/r{number}-GGUF"
        bad_luck(number, to)
        jobs.append(queue.submit(owner, {"model": f"org/m{number % MODELS}", "publish": {"to": to}, **SMALL}))
    hub.fail("GET .*_cdn", cut=10_000, times=2)
    hub.fail("GET .*_cdn", 503, after=2, times=2)
    hub.fail("PUT /_lfs", 503, times=3)
    hub.fail("PUT /_lfs", cut=0, after=1)

    def are_finished() -> bool:
        if not apps.is_alive:
            apps.start(TOKENS, workers=2, limits=LIMITS)
        return all(job.state in FINISHED for owner in TOKENS for job in queue.list(owner))

    until(are_finished, seconds=590)
    apps.kill()
    assert killed["apps"] > 3
    assert killed["workers"] > 3
    assert len([fault for fault in hub.faults if fault.times]) < 5  # a commit that a killed worker made is made
    assert [(job.title, job.error) for owner in TOKENS for job in queue.list(owner) if job.state != "done"] == []

    for number, job in enumerate(jobs):
        [result] = queue.results(job.owner, job.id)
        made = {path.name: path.read_bytes() for path in result.folder.iterdir() if path.is_file()}
        assert {f"m{number % MODELS}-Q8_0.gguf", "README.md", "recipe.yaml"} <= made.keys()
        repository = hub.repository(f"{job.owner}/r{number}-GGUF")
        files = {name: hub.content(repository.id, name) for name in repository.files}
        files.pop(NOTE, None)
        del files[".gitattributes"]
        assert files == made
        own = [commit.title for _, commit in repository.history("main") if commit.user == job.owner]
        assert own == ["Publish quantized files", "initial commit"]
    assert len([id for _, id in hub.repositories if "/r" in id]) == N
