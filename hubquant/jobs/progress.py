"""What a job's process tells of its work, where others can read it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from hubquant.engine.progress import Told
from hubquant.errors import HubquantError
from hubquant.jobs.database import Database
from hubquant.printable import message

MOST = 2000  # events of one job; the oldest go first


class Recorded(Told):
    """Progress in the database, without what ``clean`` takes out. Of each bar there is the last state only.

    What cannot be written is left out: the work goes on.
    """

    def __init__(self, database: Database, job: str, clean: Callable[[str], str]) -> None:
        super().__init__(self._record)
        self._database, self._job, self._clean = database, job, clean

    def _record(self, event: dict[str, Any]) -> None:
        slot = f"bar {event['label']}" if event["event"] == "progress" else None
        data = json.dumps({name: self._clean(v) if isinstance(v, str) else v for name, v in event.items()})
        with suppress(HubquantError), self._database.writing() as db:
            if slot is not None:
                db.execute("DELETE FROM events WHERE job = ? AND slot = ?", (self._job, slot))
            db.execute(
                "INSERT INTO events (job, at, slot, data) SELECT id, ?, ?, ? FROM jobs WHERE id = ?",
                (time.time(), slot, data, self._job),
            )
            db.execute(
                "DELETE FROM events WHERE job = ?1 AND number <= "
                "(SELECT number FROM events WHERE job = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                (self._job, MOST),
            )


@contextmanager
def noting_warnings(progress: Recorded) -> Iterator[None]:
    """Within, what libraries log as warnings are notes: that the Hub is asked again, for one."""
    handler, root = _Notes(progress), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Notes(logging.Handler):
    def __init__(self, progress: Recorded) -> None:
        super().__init__(logging.WARNING)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if (retry := getattr(record, "retry", None)) is not None:
            self._progress.tell("retry", text=message(record.getMessage()), **retry)
        else:
            self._progress.note(record.getMessage())
