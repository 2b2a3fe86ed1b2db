"""The process that works on one job: ``python -m hubquant.jobs.worker FOLDER ID ATTEMPT``.

A line of JSON on stdin brings what it needs to know, :class:`Given`: the token stands nowhere else. The process
outlives whoever started it, and holds the job's lock for as long as it lives. SIGTERM ends it within seconds, and
killed at any moment it leaves the store whole: the next one goes on.
"""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, ValidationError

from hubquant.disk import locked
from hubquant.environ import quieten_libraries
from hubquant.errors import OutputError, UserError
from hubquant.jobs.cleaning import check_room, forget_uploads
from hubquant.jobs.database import Database
from hubquant.jobs.job import LOCAL, JobFolder, Order, State
from hubquant.redaction import without_secrets
from hubquant.signals import Stopped, end_at_once, stopping

if TYPE_CHECKING:
    from hubquant.jobs.batch import BatchResult
    from hubquant.pipeline.plan import Plan

LONGEST_LOG = 1 << 20  # characters that one process writes


class Given(BaseModel):
    """``store`` is its folder, by default the machine's; ``disk_bytes`` is what the job's files may have."""

    token: str | None
    store: str | None
    disk_bytes: int | None


def main(arguments: Sequence[str], stdin: TextIO) -> int:
    """Exit codes: 0 where there was nothing to do or it is told what came of it, 143 when stopped."""
    folder, id, attempt = Path(arguments[0]), arguments[1], int(arguments[2])
    try:
        given = Given.model_validate_json(stdin.readline())
    except ValidationError:  # who started it was ended before the line was whole
        return 0
    files, database = JobFolder(folder / "jobs" / id), Database(folder)
    if not files.root.is_dir():
        return 0
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(files.lock, OutputError(f"{id} is being worked on")))
        except OutputError:  # by one that is about to end
            return 0
        if (begun := _begin(database, id, attempt)) is None:
            return 0
        owner, order = begun
        return _Work(database, id, owner, files, given).run(order)


def _begin(database: Database, id: str, attempt: int) -> tuple[str, Order] | None:
    """The owner, and what is to be done; None where the job has been cancelled, or is another process's."""
    import psutil

    with database.writing() as db:
        changed = db.execute(
            "UPDATE jobs SET state = 'running', claimed = NULL, started = coalesce(started, ?), error = NULL, pid = ?, "
            "pid_created = ? WHERE id = ? AND attempt = ? AND state = 'queued'",
            (time.time(), os.getpid(), psutil.Process().create_time(), id, attempt),
        )
        if not changed.rowcount:
            return None
        owner, work = db.execute("SELECT owner, work FROM jobs WHERE id = ?", (id,)).fetchone()
    return owner, Order.model_validate_json(work)


@dataclass(frozen=True)
class _Work:
    database: Database
    id: str
    owner: str
    files: JobFolder
    given: Given

    def run(self, order: Order) -> int:
        log = _Log(self._clean)
        with redirect_stdout(log), redirect_stderr(log):
            try:
                with stopping("stopped"):
                    results = self._carry_out(order)
            except Stopped as stop:
                self._stopped(order)
                return stop.exit_code
            except Exception as error:
                from hubquant.jobs.batch import error_text

                traceback.print_exc()
                self._end("failed", error_text(error), lasting=isinstance(error, UserError))
            else:
                self._finished(results)
        return 0

    def _carry_out(self, order: Order) -> Sequence[BatchResult]:
        quieten_libraries()
        if self.owner != LOCAL or self.given.token is not None:  # or else by the login of this machine
            from hubquant.hub.account import sign_in

            sign_in(self.given.token)
        from hubquant.engine.store import Store
        from hubquant.jobs.batch import Batch
        from hubquant.jobs.models import QueuedModel
        from hubquant.jobs.progress import Recorded, noting_warnings
        from hubquant.models.load import quiet
        from hubquant.recipe.public import with_files

        def placed(name: str) -> str:
            return str(self.files.uploads / name) if name in order.uploads else name

        models = []
        for model in order.models:
            recipe = with_files(order.recipe.model_copy(update={"model": model.model}), placed)
            models.append(QueuedModel(recipe.model, model.name, self.files.outputs / model.folder, model.to))
        store = Store(Path(self.given.store) if self.given.store else None)
        progress = Recorded(self.database, self.id, self._clean)
        batch = Batch(models, with_files(order.recipe, placed), self.files.records, store, allow=self._check_room)
        with quiet(), noting_warnings(progress):
            return batch.carry_out(progress)

    def _check_room(self, plan: Plan) -> None:
        check_room(sum(each.size for each in plan.work.written), self.given.disk_bytes)

    def _finished(self, results: Sequence[BatchResult]) -> None:
        failed = [result.record for result in results if result.record.error]
        named = [f"{record.model}: " if len(results) > 1 else "" for record in failed]
        error = "\n".join(f"{name}{record.error}" for name, record in zip(named, failed, strict=True))
        if not failed:
            self._end("done")
        elif self.owner != LOCAL and any(record.sign_in for record in failed):
            self._end("waiting", error)
        else:
            self._end("failed", error, lasting=all(record.lasting for record in failed))

    def _stopped(self, order: Order) -> None:
        with self.database.reading() as db:
            row = db.execute("SELECT cancelled FROM jobs WHERE id = ?", (self.id,)).fetchone()
        if row is None or row["cancelled"] is None:
            return self._end("queued")
        forget_uploads(self.files, order)
        return self._end("cancelled")

    def _end(self, state: State, error: str | None = None, *, lasting: bool = False) -> None:
        finished = None if state in ("queued", "waiting") else time.time()
        with self.database.writing() as db:
            db.execute(
                "UPDATE jobs SET state = ?, error = ?, lasting = ?, finished = ?, pid = NULL, "
                "needs_token = needs_token OR ? WHERE id = ? AND state = 'running'",
                (state, error and self._clean(error), lasting, finished, state == "waiting", self.id),
            )

    def _clean(self, text: str) -> str:
        """Without the token, and without the place of the job on this machine."""
        text = text.replace(f"{self.files.root}/", "")
        return without_secrets(text.replace(self.given.token, "***") if self.given.token else text)


class _Log(io.TextIOBase):
    """stdout and stderr of the process, line by line without tokens, as long as it is not too much."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean, self._begun, self._left = clean, "", LONGEST_LOG

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            shown = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._clean(line)}\n"
            self._left -= len(shown)
            if self._left > 0:
                with suppress(OSError):
                    os.write(2, shown.encode(errors="backslashreplace"))
        return len(text)


if __name__ == "__main__":
    code = main(sys.argv[1:], sys.stdin)
    if code > 128:
        end_at_once(code)
    raise SystemExit(code)
