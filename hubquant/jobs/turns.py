"""Which job is next, and what became of those whose process has ended without a word."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence

from filelock import FileLock, Timeout

from hubquant.jobs.database import Database
from hubquant.jobs.job import LOCAL, JobFolder

STARTING = 60.0  # seconds in which a process that was started for a job has begun
DEATHS = 5  # so many processes may end without a word before the job has failed

_TIRED = (
    "the process that worked on it was ended from outside, again and again. "
    "Next: see the log of the machine; perhaps its memory does not suffice"
)


def in_turn(db: sqlite3.Connection) -> list[sqlite3.Row]:
    """Queued jobs in the order in which they begin: of each owner the first, then of each the second; jobs that are
    running count."""
    busy = Counter(row["owner"] for row in db.execute("SELECT owner FROM jobs WHERE state = 'running'"))
    queued = db.execute("SELECT * FROM jobs WHERE state = 'queued' ORDER BY number").fetchall()
    turns = []
    for row in queued:
        turns.append((busy[row["owner"]], row["number"]))
        busy[row["owner"]] += 1
    return [row for _, row in sorted(zip(turns, queued, strict=True), key=lambda pair: pair[0])]


def claim(database: Database, workers: int, running: int, has_token: Callable[[str], bool]) -> sqlite3.Row | None:
    """The next job, which is this process's to start: at most ``workers`` run, ``running`` of one owner. Jobs that wait
    for a token are set aside."""
    now = time.time()
    with database.writing() as db:
        db.execute("UPDATE jobs SET claimed = NULL WHERE state = 'queued' AND claimed < ?", (now - STARTING,))
        begun = "state = 'running' OR state = 'queued' AND claimed IS NOT NULL"
        busy = Counter(row["owner"] for row in db.execute(f"SELECT owner FROM jobs WHERE {begun}"))
        for row in in_turn(db):
            if row["claimed"] is not None:
                continue
            if row["needs_token"] and row["owner"] != LOCAL and not has_token(row["owner"]):
                db.execute("UPDATE jobs SET state = 'waiting' WHERE id = ?", (row["id"],))
                continue
            if busy.total() >= workers:
                continue
            if row["owner"] != LOCAL and busy[row["owner"]] >= running:
                continue
            db.execute("UPDATE jobs SET claimed = ?, attempt = attempt + 1 WHERE id = ?", (now, row["id"]))
            return db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone()  # type: ignore[no-any-return]
    return None


def give_up(database: Database, job: str, attempt: int, *, died: bool) -> None:
    """A process that was started for a job has ended before it began."""
    with database.writing() as db:
        changed = db.execute(
            "UPDATE jobs SET claimed = NULL, deaths = deaths + ? WHERE id = ? AND attempt = ? AND state = 'queued'",
            (died, job, attempt),
        )
        if changed.rowcount:
            _end_tired(db, job)


def revive(database: Database, folder_of: Callable[[str], JobFolder]) -> Sequence[str]:
    """Queue the running jobs again whose process is gone; those that had been told to end are cancelled. Returns their
    ids."""
    with database.reading() as db:
        running = [row["id"] for row in db.execute("SELECT id FROM jobs WHERE state = 'running'")]
    found = []
    for id in running:
        lock = FileLock(folder_of(id).lock)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:  # nobody can begin meanwhile
            with database.writing() as db:
                changed = db.execute(
                    "UPDATE jobs SET state = iif(cancelled IS NULL, 'queued', 'cancelled'), deaths = deaths + 1, "
                    "finished = iif(cancelled IS NULL, NULL, ?), claimed = NULL, pid = NULL "
                    "WHERE id = ? AND state = 'running'",
                    (time.time(), id),
                )
                if changed.rowcount:
                    found.append(id)
                    _end_tired(db, id)
        finally:
            lock.release()
    return found


def _end_tired(db: sqlite3.Connection, job: str) -> None:
    db.execute(
        "UPDATE jobs SET state = 'failed', error = ?, finished = ? WHERE id = ? AND state = 'queued' AND deaths >= ?",
        (_TIRED, time.time(), job, DEATHS),
    )
