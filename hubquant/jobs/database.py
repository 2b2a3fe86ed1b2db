"""The file that jobs are kept in: SQLite, which several processes use at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hubquant.disk import disk_full, writing
from hubquant.errors import OutputError

FILE = "jobs.sqlite"
PATIENCE = 30.0  # seconds to wait for another process's transaction
_APPLICATION = 0x6871_6A62  # "hqjb", by which the file is known to be ours
_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    title TEXT NOT NULL,
    work TEXT NOT NULL,
    state TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    error TEXT,
    lasting INTEGER NOT NULL DEFAULT 0,
    needs_token INTEGER NOT NULL,
    cancelled REAL,
    has_files INTEGER NOT NULL DEFAULT 1,
    attempt INTEGER NOT NULL DEFAULT 0,
    claimed REAL,
    deaths INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,
    pid_created REAL
);
CREATE INDEX jobs_of_owner ON jobs (owner);
CREATE INDEX jobs_in_state ON jobs (state);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    at REAL NOT NULL,
    slot TEXT,
    data TEXT NOT NULL
);
CREATE INDEX events_of_job ON events (job, number);
"""
# ``attempt`` counts the processes that were started for a job, of which ``claimed`` is the time of the last, while it
# has not yet begun; ``deaths`` those that ended without a word; ``cancelled`` is when that was asked for. Of events
# with the same ``slot`` a job has the last one only.


class Database:
    def __init__(self, folder: Path) -> None:
        """Raises ``OutputError`` for a file of another program, or of a later version of this one."""
        self.path = folder / FILE
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # names of private models stand there
        with self.reading() as db:
            fresh = self._is_fresh(db)
            if fresh:
                db.execute("PRAGMA journal_mode = WAL")
        if fresh:
            with self.writing() as db:
                if self._is_fresh(db):  # nobody else has made it meanwhile
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA application_id = {_APPLICATION}")
                    db.execute(f"PRAGMA user_version = {_VERSION}")

    def _is_fresh(self, db: sqlite3.Connection) -> bool:
        [application] = db.execute("PRAGMA application_id").fetchone()
        [version] = db.execute("PRAGMA user_version").fetchone()
        [tables] = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        hint = "name another folder with --state, or move this one away"
        if application != _APPLICATION and (application or version or tables):
            raise OutputError(f"{self.path} holds no jobs of hubquant", why="it is another program's", hint=hint)
        if version > _VERSION:
            raise OutputError(f"{self.path} cannot be read", why="a later version of hubquant made it", hint=hint)
        return not version

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Raises ``OutputError`` or ``DiskFullError`` for what SQLite refuses."""
        try:
            with closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA foreign_keys = ON")
                yield db
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise disk_full(self.path) from error
            raise OutputError(f"{self.path} cannot be used", why=str(error), hint="look after its folder") from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            hint = "name another folder with --state, or move this one away"
            raise OutputError(f"{self.path} holds no jobs of hubquant", why=str(error), hint=hint) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All that is done within, or nothing of it; one process at a time."""
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    @property
    def folder(self) -> Path:
        return self.path.parent
