"""What each user sees of the jobs, and how much he may ask for."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import HubquantError, OutputError, UserError
from hubquant.jobs.database import FILE
from hubquant.jobs.dispatch import DAY, Dispatcher
from hubquant.jobs.job import LOCAL, Job, Limits
from hubquant.jobs.models import NamedModel
from hubquant.jobs.queue import Queue
from hubquant.jobs.turns import DEATHS, STARTING, claim, give_up, revive
from hubquant.pipeline.output_folder import OutputFolder

HUB = {"model": {"id": "org/one"}}
PUSHED = {**HUB, "publish": {"to": "alice/one-GGUF"}}


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "ui")


def change(queue: Queue, job: Job, **columns: Any) -> None:
    with queue.database.writing() as db:
        for name, value in columns.items():
            db.execute(f"UPDATE jobs SET {name} = ? WHERE id = ?", (value, job.id))


def next_job(queue: Queue, workers: int = 1, running: int = 1) -> str | None:
    row = claim(queue.database, workers, running, lambda owner: queue.token_of(owner) is not None)
    return None if row is None else str(row["id"])


def test_a_job_is_kept_and_has_its_place(queue: Queue) -> None:
    job = queue.submit("alice", HUB)
    assert (job.state, job.position, job.title, job.owner) == ("queued", 1, "org/one", "alice")
    again = Queue(queue.folder)
    assert again.get("alice", job.id) == job
    assert again.list("alice") == [job]
    assert queue.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "ask",
    [
        Queue.get,
        Queue.cancel,
        Queue.retry,
        Queue.remove,
        Queue.events,
        Queue.results,
        Queue.files,
        lambda queue, owner, id: queue.file(owner, id, "one-GGUF/README.md"),
    ],
)
def test_a_job_of_somebody_else_is_not_there(queue: Queue, ask: Callable[..., Any]) -> None:
    job = queue.submit("alice", HUB)
    with pytest.raises(UserError) as others:
        ask(queue, "bob", job.id)
    with pytest.raises(UserError) as nobodys:
        ask(queue, "bob", "0" * 32)
    assert str(others.value) == str(nobodys.value)
    assert queue.list("bob") == []
    assert queue.get("alice", job.id).state == "queued"


def test_users_take_turns(queue: Queue) -> None:
    names = ["alice", "alice", "alice", "bob", "carol", "bob"]
    jobs = [queue.submit(name, HUB) for name in names]
    places = [queue.get(job.owner, job.id).position for job in jobs]
    assert places == [1, 4, 6, 2, 3, 5]
    assert [next_job(queue, workers=9, running=9) for _ in jobs] == [jobs[n].id for n in (0, 3, 4, 1, 5, 2)]


def test_no_more_run_than_may(queue: Queue) -> None:
    first, second, other = (queue.submit(name, HUB) for name in ("alice", "alice", "bob"))
    assert next_job(queue, workers=3) == first.id
    change(queue, first, state="running", claimed=None)
    assert next_job(queue, workers=1) is None
    assert next_job(queue, workers=3) == other.id
    assert next_job(queue, workers=3) is None
    change(queue, first, state="done")
    assert next_job(queue, workers=3) == second.id


def test_a_job_that_was_never_begun_is_started_again(queue: Queue) -> None:
    job = queue.submit("alice", HUB)
    assert next_job(queue) == job.id
    assert next_job(queue) is None
    change(queue, job, claimed=time.time() - STARTING - 1)
    assert next_job(queue) == job.id


def test_what_kills_its_process_again_and_again_fails(queue: Queue) -> None:
    job, other = queue.submit("alice", HUB), queue.submit("bob", HUB)
    for _ in range(DEATHS):
        assert queue.get("alice", job.id).state == "queued"
        change(queue, job, state="running")
        assert revive(queue.database, queue.files_of) == [job.id]
    found = queue.get("alice", job.id)
    assert found.state == "failed"
    assert found.error
    assert "memory" in found.error
    for attempt in range(1, DEATHS + 1):
        assert next_job(queue) == other.id
        give_up(queue.database, other.id, attempt, died=True)
    assert queue.get("bob", other.id).state == "failed"
    assert queue.retry("bob", other.id).state == "queued"


def test_a_job_that_publishes_waits_for_a_token(queue: Queue) -> None:
    job, other = queue.submit("alice", PUSHED), queue.submit("bob", HUB)
    assert next_job(queue) == other.id
    assert queue.get("alice", job.id).state == "waiting"
    change(queue, other, state="done")
    queue.offer("bob", "hf_of_bob")
    assert queue.get("alice", job.id).state == "waiting"
    queue.offer("alice", "hf_of_alice")
    assert next_job(queue) == job.id
    change(queue, job, state="waiting")  # as the Hub does not accept it
    queue.offer("alice", "hf_of_alice")
    assert queue.get("alice", job.id).state == "waiting"
    queue.offer("alice", "hf_newer")
    assert queue.get("alice", job.id).state == "queued"


def test_the_machine_s_own_user_needs_none(queue: Queue) -> None:
    job = queue.submit(LOCAL, PUSHED)
    assert next_job(queue) == job.id


def test_a_cancelled_job_is_not_started(queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("text")
    recipe = {**HUB, "calibration": {"sources": [{"file": "text.txt"}]}}
    job = queue.submit("alice", recipe, uploads={"text.txt": tmp_path / "mine.txt"})
    assert (queue.files_of(job.id).uploads / "text.txt").read_text() == "text"
    assert queue.cancel("alice", job.id).state == "cancelled"
    assert not queue.files_of(job.id).uploads.exists()
    assert (tmp_path / "mine.txt").exists()
    assert next_job(queue) is None
    assert queue.cancel("alice", job.id).state == "cancelled"
    with pytest.raises(UserError, match="gone"):
        queue.retry("alice", job.id)


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"model": {"folder": "."}}, "model.folder"),
        ({"model": {"file": "/etc/model.gguf"}}, "model.file"),
        ({**HUB, "calibration": {"sources": [{"file": "/etc/passwd"}]}}, "calibration.sources"),
        ({**HUB, "evaluate": {"sources": [{"file": "../text.txt"}]}}, "evaluate.sources"),
        ({**HUB, "calibration": {"sources": [{"plugin": "text.txt:Text", "langs": ["en"]}]}}, "plugin"),
        ({**HUB, "imatrix": {"file": "imatrix.gguf"}}, "imatrix.file"),
        ({**HUB, "publish": {"to": "alice/one", "card": "/etc/passwd"}}, "publish.card"),
    ],
)
def test_a_stranger_does_not_reach_this_machine(
    queue: Queue, tmp_path: Path, recipe: dict[str, Any], named: str
) -> None:
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(UserError) as error:
        queue.submit("alice", recipe, uploads={"text.txt": tmp_path / "text.txt"})
    assert named in str(error.value)
    assert queue.list("alice") == []
    assert not (queue.folder / "jobs").exists()


def test_what_lies_here_is_no_stranger_s_model(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "one").mkdir(parents=True)
    [own] = queue.submit(LOCAL, {"model": "org/one"}).order.models
    [named] = queue.submit("alice", {"model": "org/one"}).order.models
    [listed] = queue.submit("alice", {}, models=[NamedModel("org/one@main", "alice/x")]).order.models
    assert (own.model.folder, own.model.id) == (str(tmp_path / "org" / "one"), None)
    assert (named.model.id, named.to) == ("org/one", None)
    assert (listed.model.id, listed.to) == ("org/one", "alice/x")
    with pytest.raises(UserError, match="reaches for files"):
        queue.submit("alice", {}, models=[NamedModel("org/two"), NamedModel("./org/one")])


def test_several_models_do_not_meet(queue: Queue) -> None:
    job = queue.submit("alice", {}, models=[NamedModel("org/one"), NamedModel("me/one")])
    assert job.title == "org/one and 1 more"
    assert [model.folder for model in job.order.models] == ["one-GGUF", "2-one-GGUF"]
    with pytest.raises(UserError, match="both be published to a/x"):
        queue.submit("alice", {}, models=[NamedModel("org/one", "a/x"), NamedModel("me/one", "a/x")])


@pytest.mark.parametrize("name", ["../text.txt", "a/b", ".hidden", ""])
def test_names_of_uploads_stay_in_their_folder(queue: Queue, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(UserError, match="no name for a file"):
        queue.submit("alice", HUB, uploads={name: tmp_path / "text.txt"})


def test_limits(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "ui", Limits(jobs=2, upload_bytes=10, disk_bytes=15))
    for name, length in (("small", 10), ("large", 11)):
        (tmp_path / name).write_bytes(b"x" * length)
    recipe = {**HUB, "evaluate": {"sources": [{"file": "t"}]}}
    with pytest.raises(UserError, match="may be uploaded"):
        queue.submit("alice", recipe, uploads={"t": tmp_path / "large"})
    first = queue.submit("alice", recipe, uploads={"t": tmp_path / "small"})
    with pytest.raises(UserError, match="what you may keep here"):
        queue.submit("alice", recipe, uploads={"t": tmp_path / "small"})
    second = queue.submit("alice", HUB)
    with pytest.raises(UserError, match="not finished") as error:
        queue.submit("alice", HUB)
    assert error.value.hint
    assert queue.submit("bob", recipe, uploads={"t": tmp_path / "small"}).state == "queued"
    for _ in range(3):
        queue.submit(LOCAL, recipe, uploads={"t": tmp_path / "large"})
    queue.cancel("alice", first.id)
    assert queue.submit("alice", recipe, uploads={"t": tmp_path / "small"}).state == "queued"
    change(queue, second, state="failed")
    queue.submit("alice", HUB)
    with pytest.raises(UserError, match="not finished"):
        queue.retry("alice", second.id)


@pytest.fixture
def made(queue: Queue) -> Job:
    """A job that is done, with an output folder."""
    job = queue.submit("alice", HUB)
    folder = OutputFolder(queue.files_of(job.id).outputs / "one-GGUF")
    with folder.locked():
        folder.save()
        folder.write("README.md", b"# One")
    change(queue, job, state="done", finished=time.time())
    return queue.get("alice", job.id)


def test_files_are_given_and_nothing_beside_them(queue: Queue, made: Job) -> None:
    assert queue.files("alice", made.id) == {"one-GGUF/README.md": 5}
    assert queue.file("alice", made.id, "one-GGUF/README.md").read_bytes() == b"# One"
    for name in ("one-GGUF/.hubquant/manifest.json", "../batch.json", "/etc/passwd", "one-GGUF"):
        with pytest.raises(UserError, match="no such file"):
            queue.file("alice", made.id, name)
    (queue.files_of(made.id).outputs / "one-GGUF" / "link").symlink_to("/etc/passwd")
    assert queue.files("alice", made.id).keys() == {"one-GGUF/README.md"}


def test_a_removed_job_leaves_what_hubquant_did_not_make(queue: Queue, made: Job) -> None:
    change(queue, made, state="running")
    with pytest.raises(UserError, match="is running"):
        queue.remove("alice", made.id)
    change(queue, made, state="done")
    foreign = queue.files_of(made.id).outputs / "one-GGUF" / "notes.txt"
    foreign.write_text("mine")
    queue.remove("alice", made.id)
    assert [path for path in queue.files_of(made.id).root.rglob("*") if path.is_file()] == [foreign]
    with pytest.raises(UserError):
        queue.get("alice", made.id)


def test_files_of_finished_jobs_go_after_some_days(queue: Queue, made: Job) -> None:
    queue.limits = replace(queue.limits, days=2)
    unfinished = queue.submit("alice", HUB)
    dispatcher = Dispatcher(queue)
    dispatcher.clean()
    assert queue.get("alice", made.id).has_files
    change(queue, made, finished=time.time() - 2 * DAY - 1)
    dispatcher.clean()
    assert not queue.files_of(made.id).root.exists()
    assert queue.files_of(unfinished.id).root.exists()
    found = queue.get("alice", made.id)
    assert (found.state, found.has_files) == ("done", False)
    assert queue.files("alice", made.id) == {}


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    for number, statement in enumerate(("CREATE TABLE jobs (id)", "PRAGMA user_version = 3")):
        path = tmp_path / str(number) / FILE
        path.parent.mkdir()
        with sqlite3.connect(path) as db:
            db.execute(statement)
        before = path.read_bytes()
        with pytest.raises(OutputError, match="another program"):
            Queue(path.parent)
        assert path.read_bytes() == before
    (tmp_path / FILE).write_text("not SQLite, and long enough to be taken for a header of it" * 20)
    with pytest.raises(OutputError, match="holds no jobs"):
        Queue(tmp_path)


def test_a_later_version_s_database_is_left_alone(queue: Queue) -> None:
    with queue.database.writing() as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(HubquantError, match="a later version"):
        Queue(queue.folder)
