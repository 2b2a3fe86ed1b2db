"""What becomes of jobs when they, or the app that started them, are stopped or killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hubquant.engine.store import Store
from hubquant.jobs.job import LOCAL, Job, Limits
from hubquant.jobs.queue import Queue
from tests.support.jobs import SMALL, Apps, finished, until
from tests.support.localhub import ALICE, BOB, LocalHub

DEMO = {"model": {"bundled": "demo"}, **SMALL}


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "ui")


@pytest.fixture
def apps(queue: Queue, store: Path) -> Iterator[Apps]:
    apps = Apps(queue.folder, store)
    yield apps
    apps.kill()
    for pid in pids(queue):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def models(hub: LocalHub, tiny_llama: Path) -> LocalHub:
    hub.add("alice/secret", tiny_llama, private=True)
    hub.add("org/open", tiny_llama)
    return hub


def pids(queue: Queue) -> list[int]:
    """Of workers that are at it."""
    with queue.database.reading() as db:
        rows = db.execute("SELECT pid FROM jobs WHERE state = 'running' AND pid IS NOT NULL").fetchall()
    return [row["pid"] for row in rows if psutil.pid_exists(row["pid"])]


def named(queue: Queue, job: Job, event: str) -> list[Any]:
    return [each.get("name") for each in queue.events(job.owner, job.id) if each["event"] == event]


def test_a_killed_worker_s_job_goes_on_and_so_does_a_killed_app_s(models: LocalHub, queue: Queue, apps: Apps) -> None:
    """The worker is killed while it pushes; the app while the second worker does. Nothing is made or pushed twice."""
    job = queue.submit("alice", {"model": "org/open", "publish": {"to": "alice/out"}, **SMALL})

    def kill_worker(_: str) -> None:
        [pid] = pids(queue)
        os.kill(pid, signal.SIGKILL)

    workers: list[int] = []

    def kill_app(_: str) -> None:
        apps.kill()
        workers.extend(pids(queue))

    models.meanwhile("PUT /_lfs", kill_worker)
    models.meanwhile("POST /api/models/alice/out/commit", kill_app)
    apps.start({"alice": ALICE})
    until(lambda: workers)
    assert finished(queue, job).state == "done"  # without any app
    assert named(queue, job, "step").count("quantize") == 2  # the second time it is there already
    reused = [each["reused"] for each in queue.events("alice", job.id) if each.get("name") == "quantize"]
    assert reused == [False, True]
    titles = [commit.title for _, commit in models.repository("alice/out").history("main")]
    assert titles == ["Publish quantized files", "initial commit"]
    apps.start()  # without Alice's token, which it does not need
    another = queue.submit(LOCAL, DEMO)
    assert finished(queue, another).state == "done"
    assert queue.get("alice", job.id).state == "done"


def test_a_job_whose_token_is_gone_waits_until_its_owner_is_back(models: LocalHub, queue: Queue, apps: Apps) -> None:
    """Bob never gets at what is Alice's, and does not see it; a token that the Hub refuses is no token."""
    private = queue.submit("alice", {"model": "alice/secret", **SMALL})
    guessed = queue.submit("bob", {"model": "alice/secret", **SMALL})
    apps.start({"bob": BOB, "alice": "hf_expired"})
    assert "there is no repository alice/secret" in str(finished(queue, guessed).error)
    until(lambda: queue.get("alice", private.id).state == "waiting")
    assert "does not accept" in str(queue.get("alice", private.id).error)
    queue.offer("alice", ALICE)  # to this process, which starts no worker
    apps.start()
    until(lambda: queue.get("alice", private.id).state == "waiting")
    assert models.requests("GET /alice/secret/resolve") == []
    apps.start({"alice": ALICE})
    done = finished(queue, private)
    assert (done.state, done.error) == ("done", None)
    assert "secret-GGUF/secret-Q8_0.gguf" in queue.files("alice", private.id)
    asked = {entry.headers.get("authorization") for entry in models.requests("alice/secret/resolve")}
    assert asked == {f"Bearer {ALICE}"}


def test_a_cancelled_job_ends_and_leaves_the_store_whole(queue: Queue, apps: Apps, store: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some words to look at. " * 20_000)
    long = {
        "model": {"bundled": "demo"},
        "quantize": {"types": ["Q8_0"]},
        "imatrix": {"skip": True},
        "evaluate": {"sources": [{"file": "text.txt"}], "chunk_size": 16, "chunks": 4000, "engine": "torch"},
    }
    job = queue.submit("alice", long, uploads={"text.txt": tmp_path / "text.txt"})
    other = queue.submit("bob", DEMO)
    apps.start(workers=2)
    until(lambda: "baseline" in named(queue, job, "step"))
    [event] = until(lambda: [e for e in queue.events("alice", job.id) if e.get("label") == "baseline"])
    assert event["total"] > event["done"] > 0
    assert event["seconds_left"] > 0
    found = queue.cancel("alice", job.id)
    assert found.cancelling
    assert finished(queue, job).state == "cancelled"
    until(lambda: not queue.files_of(job.id).uploads.exists())
    assert finished(queue, other).state == "done"
    assert all(each.kind in ("file", "verification", "half built") for each in Store(store).kept())
    assert len(queue.events("alice", job.id)) < 20


def test_what_does_not_fit_what_its_owner_may_keep_is_not_made(queue: Queue, apps: Apps) -> None:
    job = queue.submit("alice", DEMO)
    apps.start(limits=Limits(disk_bytes=1 << 20))
    found = finished(queue, job)
    assert found.state == "failed"
    assert "what you may keep here" in str(found.error)
    assert named(queue, job, "step") == ["model"]
