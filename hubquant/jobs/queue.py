"""The jobs of several users: what each of them sees of his own, and may do with it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from hubquant.disk import inside, writing
from hubquant.engine.store import home
from hubquant.errors import UserError
from hubquant.jobs.cleaning import disk_use, forget_files, forget_uploads
from hubquant.jobs.database import Database
from hubquant.jobs.job import FINISHED, LOCAL, Job, JobFolder, Limits, Order
from hubquant.jobs.models import BatchRecord, BatchState, NamedModel
from hubquant.jobs.orders import order
from hubquant.jobs.processes import stop
from hubquant.jobs.turns import in_turn
from hubquant.recipe.schema import Recipe
from hubquant.units import size


@dataclass(frozen=True)
class Result:
    """Of one model: ``record`` is None until it was its turn; ``folder`` is laid out as the repository that it becomes
    (README.md, recipe.yaml, measurements.json, plot.png, the files), as far as it is there."""

    model: str
    folder: Path
    record: BatchRecord | None


class Queue:
    """The jobs in ``folder``, by default ``$HUBQUANT_HOME/ui``; safe to use from several threads and processes.

    Each call names the ``owner``, and what is not his is not there: ``UserError``, as for a job that never was.
    Tokens are kept in this object's memory alone.
    """

    def __init__(self, folder: Path | None = None, limits: Limits = Limits()) -> None:  # noqa: B008
        """Raises ``OutputError`` for a folder with the jobs of another program or of a later version."""
        self.folder = (home() / "ui" if folder is None else folder).absolute()
        self.limits = limits
        self.database = Database(self.folder)
        self._tokens: dict[str, str] = {}

    def submit(
        self,
        owner: str,
        recipe: Recipe | Mapping[str, Any],
        *,
        models: Sequence[NamedModel] = (),
        uploads: Mapping[str, Path] | None = None,
    ) -> Job:
        """Queue ``recipe`` for its own model, or for each of ``models``.

        ``uploads`` are files by the names that the recipe has for them (``file`` of a text, of the model or of the
        importance matrix); they are copied. Raises a ``UserError`` for what cannot be run, and above the limits.
        """
        uploads = uploads or {}
        work = order(recipe, models, tuple(uploads), stranger=owner != LOCAL)
        given = {_upload_name(name): path.stat().st_size for name, path in uploads.items()}
        self._check_sizes(owner, sum(given.values()))
        id = uuid4().hex
        files = self.files_of(id)
        try:
            with writing(files.root):
                files.root.mkdir(parents=True, mode=0o700)
                for name, path in uploads.items():
                    files.uploads.mkdir(exist_ok=True)
                    shutil.copyfile(path, files.uploads / name)
            with self.database.writing() as db:
                self._check_number(db, owner)
                db.execute(
                    "INSERT INTO jobs (id, owner, title, work, state, created, needs_token) "
                    "VALUES (?, ?, ?, ?, 'queued', ?, ?)",
                    (id, owner, work.title, work.model_dump_json(exclude_defaults=True), time.time(), work.publishes),
                )
        except BaseException:
            shutil.rmtree(files.root, ignore_errors=True)
            raise
        return self.get(owner, id)

    def list(self, owner: str) -> Sequence[Job]:
        """The newest first."""
        with self.database.reading() as db:
            rows = db.execute("SELECT * FROM jobs WHERE owner = ? ORDER BY number DESC", (owner,)).fetchall()
            positions = {row["id"]: place for place, row in enumerate(in_turn(db), 1)}
        return [_job(row, positions) for row in rows]

    def get(self, owner: str, id: str) -> Job:
        with self.database.reading() as db:
            row = _row(db, owner, id)
            positions = {row["id"]: place for place, row in enumerate(in_turn(db), 1)}
        return _job(row, positions)

    def cancel(self, owner: str, id: str) -> Job:
        """At once where it has not begun; a job that runs has ended within seconds. One that is finished stays so."""
        now = time.time()
        with self.database.writing() as db:
            row = _row(db, owner, id)
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, cancelled = ?, claimed = NULL, "
                "attempt = attempt + 1 WHERE id = ? AND state IN ('queued', 'waiting')",
                (now, now, id),
            )
            db.execute(
                "UPDATE jobs SET cancelled = coalesce(cancelled, ?) WHERE id = ? AND state = 'running'", (now, id)
            )
        if row["state"] == "running":
            stop(row["pid"], row["pid_created"])
        job = self.get(owner, id)
        if job.state == "cancelled":
            forget_uploads(self.files_of(id), job.order)
        return job

    def retry(self, owner: str, id: str) -> Job:
        """Queue a failed or cancelled job again: it goes on from what is finished."""
        with self.database.writing() as db:
            row = _row(db, owner, id)
            work = Order.model_validate_json(row["work"])
            if work.uploads and row["state"] == "cancelled":
                raise UserError("the files that came with the job are gone", hint="queue a new one")
            if row["state"] in ("failed", "cancelled"):
                self._check_number(db, owner)
            db.execute(
                "UPDATE jobs SET state = 'queued', finished = NULL, cancelled = NULL, error = NULL, lasting = 0, "
                "deaths = 0, has_files = 1 WHERE id = ? AND state IN ('failed', 'cancelled')",
                (id,),
            )
        return self.get(owner, id)

    def remove(self, owner: str, id: str) -> None:
        """Forget a job that does not run, and remove its files. What hubquant did not make there stays."""
        with self.database.writing() as db:
            if _row(db, owner, id)["state"] == "running":
                raise UserError("the job is running", hint="cancel it first")
            work = Order.model_validate_json(_row(db, owner, id)["work"])
            db.execute("DELETE FROM jobs WHERE id = ?", (id,))
        forget_files(self.files_of(id), work)

    def events(self, owner: str, id: str, *, after: int = 0) -> Sequence[dict[str, Any]]:
        """What ``hubquant run --json`` tells, with ``number``, which grows, and ``at`` in seconds since 1970; those
        with a ``number`` above ``after``. A bar's state takes the place of its earlier one."""
        with self.database.reading() as db:
            _row(db, owner, id)
            rows = db.execute(
                "SELECT number, at, data FROM events WHERE job = ? AND number > ? ORDER BY number", (id, after)
            ).fetchall()
        return [{"number": row["number"], "at": row["at"], **json.loads(row["data"])} for row in rows]

    def results(self, owner: str, id: str) -> Sequence[Result]:
        """What is there of each model, also while the job runs."""
        job, files = self.get(owner, id), self.files_of(id)
        known = BatchState(files.records)
        return [
            Result(model.name, files.outputs / model.folder, known.at(files.outputs / model.folder))
            for model in job.order.models
        ]

    def files(self, owner: str, id: str) -> Mapping[str, int]:
        """Bytes of the files that are there to be taken, by their path within the job."""
        self.get(owner, id)
        root = self.files_of(id).outputs
        paths = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
        names = {path.relative_to(root).as_posix(): path.stat().st_size for path in paths}
        return {name: found for name, found in names.items() if ".hubquant" not in name.split("/")}

    def file(self, owner: str, id: str, name: str) -> Path:
        """Where one of the :meth:`files` lies."""
        if name not in self.files(owner, id):
            raise UserError("there is no such file", hint="choose one of the list")
        return self.files_of(id).outputs / inside(name)

    def offer(self, owner: str, token: str) -> None:
        """A token of the ``owner`` is there: jobs that wait for it go on, and use it from their next start. It is kept
        until this process ends, or :meth:`forget_token`."""
        if self._tokens.get(owner) == token:  # the Hub may have refused that one
            return
        self._tokens[owner] = token
        with self.database.writing() as db:
            db.execute("UPDATE jobs SET state = 'queued' WHERE owner = ? AND state = 'waiting'", (owner,))

    def forget_token(self, owner: str) -> None:
        self._tokens.pop(owner, None)

    def token_of(self, owner: str) -> str | None:
        return self._tokens.get(owner)

    def files_of(self, id: str) -> JobFolder:
        return JobFolder(self.folder / "jobs" / id)

    def disk_left(self, owner: str, but: str | None = None) -> int | None:
        """Bytes that files of the ``owner``, of all jobs ``but`` one, leave him; None for no limit."""
        if owner == LOCAL:
            return None
        ids = [job.id for job in self.list(owner) if job.id != but]
        return self.limits.disk_bytes - sum(disk_use(self.files_of(id)) for id in ids)

    def _check_sizes(self, owner: str, upload: int) -> None:
        if owner == LOCAL:
            return
        if upload > self.limits.upload_bytes:
            raise UserError(
                f"the files have {size(upload)}",
                why=f"{size(self.limits.upload_bytes)} may be uploaded for a job",
                hint="cut them down, or put them into a dataset or a model on the Hub and name that",
            )
        left = self.disk_left(owner)
        if left is not None and upload >= left:
            raise UserError(
                f"your jobs' files have {size(self.limits.disk_bytes - left)}",
                why=f"{size(self.limits.disk_bytes)} are what you may keep here",
                hint="remove a finished job of yours",
            )

    def _check_number(self, db: sqlite3.Connection, owner: str) -> None:
        marks = ", ".join("?" * len(FINISHED))
        [unfinished] = db.execute(
            f"SELECT count(*) FROM jobs WHERE owner = ? AND state NOT IN ({marks})", (owner, *FINISHED)
        ).fetchone()
        if owner != LOCAL and unfinished >= self.limits.jobs:
            raise UserError(
                f"{unfinished} jobs of yours are not finished",
                why=f"{self.limits.jobs} may be",
                hint="wait for one, or cancel one",
            )


def _upload_name(name: str) -> str:
    with suppress(ValueError):
        if inside(name) == name and "/" not in name and not name.startswith("."):
            return name
    raise UserError(f"{name!r} is no name for a file", hint="give it a plain name, such as text.txt")


def _row(db: sqlite3.Connection, owner: str, id: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM jobs WHERE id = ? AND owner = ?", (id, owner)).fetchone()
    if row is None:
        raise UserError("there is no such job", hint="choose one of your list")
    return row


def _job(row: sqlite3.Row, positions: Mapping[str, int]) -> Job:
    return Job(
        id=row["id"],
        owner=row["owner"],
        title=row["title"],
        order=Order.model_validate_json(row["work"]),
        state=row["state"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        position=positions.get(row["id"]),
        error=row["error"],
        lasting=bool(row["lasting"]),
        cancelling=row["state"] == "running" and row["cancelled"] is not None,
        has_files=bool(row["has_files"]),
    )
