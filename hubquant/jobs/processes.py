"""The process of a job, from outside. Its number may be another process's by now: the time it was made tells."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # or else within functions, as its module for Linux needs what other systems lack
    import psutil


def stop(pid: int | None, created: float | None) -> None:
    """Ask it to end, which it does within seconds."""
    import psutil

    with suppress(psutil.Error):
        if (process := _process(pid, created)) is not None:
            process.terminate()


def kill(pid: int | None, created: float | None) -> None:
    """With all its children."""
    import psutil

    with suppress(psutil.Error):
        if (process := _process(pid, created)) is not None:
            for each in (*process.children(recursive=True), process):
                with suppress(psutil.Error):
                    each.kill()


def _process(pid: int | None, created: float | None) -> psutil.Process | None:
    import psutil

    process = None if pid is None else psutil.Process(pid)
    return process if process is not None and process.create_time() == created else None
