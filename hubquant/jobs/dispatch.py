"""Who starts the processes of queued jobs: a thread of the app, for as long as that runs."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hubquant.engine.store import Store
from hubquant.environ import of_nobody
from hubquant.errors import HubquantError
from hubquant.jobs.cleaning import forget_files, forget_uploads
from hubquant.jobs.job import FINISHED, LOCAL, Order
from hubquant.jobs.processes import kill
from hubquant.jobs.queue import Queue
from hubquant.jobs.turns import claim, give_up, revive
from hubquant.jobs.worker import Given

logger = logging.getLogger(__name__)
DAY = 86_400  # seconds
PATIENCE = 20.0  # seconds after which a job that was told to end is ended
CLEANING = 3600.0  # seconds from one look for old files to the next


class Process(Protocol):
    """As ``subprocess.Popen`` has it: None while it lives."""

    def poll(self) -> int | None: ...


@dataclass(frozen=True)
class Started:
    job: str
    attempt: int
    process: Process


class Dispatcher:
    """Starts at most ``workers`` jobs at once, in turn between their owners; ``store`` is that of all jobs.

    The processes go on when this one ends, and any other dispatcher of the same folder takes over.
    """

    def __init__(self, queue: Queue, *, workers: int = 1, store: Path | None = None) -> None:
        self.queue, self.workers, self.store = queue, workers, store
        self._started: list[Started] = []
        self._cleaned = -CLEANING
        self._ending = threading.Event()

    @contextmanager
    def running(self, every: float = 1.0) -> Iterator[None]:
        """Within, a thread calls :meth:`tick` every so many seconds."""
        thread = threading.Thread(target=self._run, args=(every,), daemon=True, name="hubquant-jobs")
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def tick(self) -> None:
        """Find out what has ended, start what is next, and once in a while clean up."""
        self._note_ended()
        for id in revive(self.queue.database, self.queue.files_of):
            self._forget_uploads_of_cancelled(id)
        self._end_stubborn()
        while (row := self._claim()) is not None:
            self._start(row)
        if time.monotonic() - self._cleaned >= CLEANING:
            self._cleaned = time.monotonic()
            self.clean()

    def clean(self) -> None:
        """Remove the files of jobs that were finished long ago, and what the store has above its limits."""
        limits, database = self.queue.limits, self.queue.database
        if limits.days is not None:
            marks = ", ".join("?" * len(FINISHED))
            with database.reading() as db:
                old = db.execute(
                    f"SELECT id, work FROM jobs WHERE has_files AND state IN ({marks}) AND finished < ?",
                    (*FINISHED, time.time() - limits.days * DAY),
                ).fetchall()
            for row in old:
                forget_files(self.queue.files_of(row["id"]), Order.model_validate_json(row["work"]))
                with database.writing() as db:
                    db.execute("UPDATE jobs SET has_files = 0 WHERE id = ?", (row["id"],))
        if limits.store_bytes is not None:
            older = None if limits.days is None else limits.days * DAY
            Store(self.store).prune(older, limits.store_bytes)

    def _run(self, every: float) -> None:
        while True:
            try:
                self.tick()
            except (HubquantError, OSError) as error:  # a full disk, for one: later it may go
                logger.warning("%s", error)
            if self._ending.wait(every):
                return

    def _claim(self) -> sqlite3.Row | None:
        queue = self.queue
        return claim(
            queue.database, self.workers, queue.limits.running, lambda owner: queue.token_of(owner) is not None
        )

    def _start(self, row: sqlite3.Row) -> None:
        id, owner, attempt = row["id"], row["owner"], row["attempt"]
        given = Given(
            token=self.queue.token_of(owner),
            store=None if self.store is None else str(self.store.absolute()),
            disk_bytes=self.queue.disk_left(owner, but=id),
        )
        try:
            process = self.start(id, attempt, given, self.environment(owner, id))
        except OSError:
            give_up(self.queue.database, id, attempt, died=True)
            raise
        self._started.append(Started(id, attempt, process))

    def environment(self, owner: str, id: str) -> Mapping[str, str]:
        """A stranger's process knows nothing of this machine's login on the Hub."""
        package = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        own = os.environ if owner == LOCAL else of_nobody(self.queue.files_of(id).root / "no-token")
        return {**own, "PYTHONPATH": paths}

    def start(self, id: str, attempt: int, given: Given, environment: Mapping[str, str]) -> Process:
        files = self.queue.files_of(id)
        files.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        with files.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", Given.__module__, str(self.queue.folder), id, str(attempt)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(given.model_dump_json().encode() + b"\n")
        return process

    def _note_ended(self) -> None:
        for each in list(self._started):
            if (code := each.process.poll()) is not None:
                self._started.remove(each)
                give_up(self.queue.database, each.job, each.attempt, died=code != 0)

    def _end_stubborn(self) -> None:
        with self.queue.database.reading() as db:
            late = db.execute(
                "SELECT pid, pid_created FROM jobs WHERE state = 'running' AND cancelled < ?", (time.time() - PATIENCE,)
            ).fetchall()
        for row in late:
            kill(row["pid"], row["pid_created"])

    def _forget_uploads_of_cancelled(self, id: str) -> None:
        with self.queue.database.reading() as db:
            row = db.execute("SELECT work FROM jobs WHERE id = ? AND state = 'cancelled'", (id,)).fetchone()
        if row is not None:
            forget_uploads(self.queue.files_of(id), Order.model_validate_json(row["work"]))
