"""Jobs at work in processes of their own: with the token of their owner alone, killed, cancelled, and going on."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from hubquant.jobs.dispatch import Dispatcher
from hubquant.jobs.job import LOCAL
from hubquant.jobs.queue import Queue
from tests.support.jobs import SMALL, contents, finished
from tests.support.localhub import ALICE, BOB, LocalHub

SECRET = b"hf_alice"


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "ui")


@pytest.fixture
def dispatcher(queue: Queue, store: Path) -> Dispatcher:
    return Dispatcher(queue, store=store)


def of_process(pid: int) -> bytes:
    """What others may read of a process."""
    return b"".join((Path("/proc") / str(pid) / name).read_bytes() for name in ("cmdline", "environ"))


def pid_of(queue: Queue, id: str) -> int:
    with queue.database.reading() as db:
        return int(db.execute("SELECT pid FROM jobs WHERE id = ?", (id,)).fetchone()["pid"])


@pytest.mark.parametrize("owner", ["alice", LOCAL])
def test_a_private_model_is_published_with_its_owner_s_token_alone(
    hub: LocalHub, queue: Queue, dispatcher: Dispatcher, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """And neither the machine's own nor anybody else's; this machine's user may have given one too."""
    monkeypatch.setenv("HF_TOKEN", BOB)
    hub.add("alice/secret", tiny_llama, private=True)
    job = queue.submit(owner, {"model": "alice/secret", "publish": {"to": "alice/out", "private": True}, **SMALL})
    queue.offer(owner, ALICE)
    seen: list[bytes] = []

    def look(_: str) -> None:
        pid = pid_of(queue, job.id)
        seen.extend(of_process(each.pid) for each in (psutil.Process(pid), *psutil.Process(pid).children(True)))

    hub.meanwhile("POST /api/models/alice/out/commit", look)
    assert finished(queue, job, dispatcher).state == "done"

    assert queue.results(owner, job.id)[0].record.url == f"{hub.url}/alice/out"  # type: ignore[union-attr]
    assert "secret-Q8_0.gguf" in hub.repository("alice/out").files
    assert hub.repository("alice/out").private
    assert {entry.headers.get("authorization") for entry in hub.log} <= {f"Bearer {ALICE}", None}
    assert seen
    assert not any(SECRET in text for text in seen)
    assert owner == LOCAL or not any(BOB.encode() in text for text in seen)
    assert SECRET not in contents(queue.folder)
    events = queue.events(owner, job.id)
    assert next(event["name"] for event in events if event["event"] == "step") == "model"
    assert [event["number"] for event in events] == sorted(event["number"] for event in events)
    assert queue.events(owner, job.id, after=events[-2]["number"]) == events[-1:]
    assert str(queue.folder) not in str(events)
