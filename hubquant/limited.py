"""What a library makes of a stranger's input, found out in a process of its own that has limits on time and memory.

Some formats let a few bytes ask for hours or for all memory, and the libraries that read them have no limit.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hubquant.environ import without_login

_START_SECONDS = 120.0  # until the libraries are imported, on a machine with much else to do
_PATIENCE = 10.0  # seconds on the clock for each of computing
_LONGEST_WHY = 300  # characters


class WorkError(Exception):
    """Why there is no answer, as a clause."""


class LimitError(WorkError):
    """A limit was reached, or the process broke down."""


class Worker:
    """Calls ``work``, a function of some module on plain JSON data, in another process.

    A call may compute for ``seconds``, and take ``memory`` bytes (which Linux alone can bound) more than the libraries
    themselves, or any amount where it is None. ``seconds_used`` adds up what all calls computed. The process ends with
    this object.
    """

    def __init__(self, work: Callable[..., Any], *, seconds: int, memory: int | None = None) -> None:
        self._limits: dict[str, Any] = {"seconds": seconds, "memory": memory}
        self.seconds_used = 0.0
        package = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        code = f"from hubquant.limited import serve; serve({work.__module__!r}, {work.__name__!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=without_login(PYTHONPATH=paths),
        )
        self.close = weakref.finalize(self, _end, self._process)
        self._has_started = False
        self._ended: str | None = None

    def __call__(self, **request: Any) -> Any:
        """The result of ``work(**request)``.

        Raises ``LimitError``, and when ``work`` raises ``WorkError`` with the first line of that error.
        """
        if self._ended is not None:
            raise LimitError(self._ended)
        if not self._has_started:
            self._ask(b"", _START_SECONDS)
            self._has_started = True
        message = json.dumps({**self._limits, "request": request})
        reply = self._ask(message.encode() + b"\n", _PATIENCE * self._limits["seconds"])
        self.seconds_used += reply["seconds"]
        if "error" in reply:
            raise (LimitError if reply["limit"] else WorkError)(reply["error"])
        return reply["result"]

    def _ask(self, message: bytes, seconds: float) -> Any:
        process, expired = self._process, threading.Event()

        def stop() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        line = b""
        try:
            if process.stdin is not None and process.stdout is not None:
                process.stdin.write(message)
                process.stdin.flush()
                line = process.stdout.readline()
        except OSError:  # it has ended
            pass
        finally:
            timer.cancel()
        if line:
            return json.loads(line)
        status = process.wait()
        slow = expired.is_set() or status == -getattr(signal, "SIGXCPU", 0)
        took = f"it takes more than {self._limits['seconds']} seconds of computing"
        self._ended = took if slow else f"the library that reads it breaks down (status {status})"
        raise LimitError(self._ended)


def serve(module: str, name: str) -> None:
    """The other process: answers requests, a line each, until there are no more."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print

    def reply(line: str) -> None:
        replies.write(line.encode() + b"\n")
        replies.flush()

    work = getattr(importlib.import_module(module), name)
    reply("{}")
    while line := requests.readline():
        message = json.loads(line)
        start = time.process_time()
        _limit(message["seconds"], message["memory"])
        try:
            answer = json.dumps({"result": work(**message["request"]), "seconds": time.process_time() - start})
        except MemoryError:
            bound = message["memory"]
            more = "more memory than there is" if bound is None else f"more than {bound >> 20:,} MiB of memory"
            answer = _error(f"it takes {more}", start, limit=True)
        except RecursionError:
            answer = _error("it is nested too deeply", start, limit=True)
        except Exception as error:  # of the library, for what it was given
            why = (str(error).strip() or type(error).__name__).splitlines()[0][:_LONGEST_WHY]
            answer = _error(why, start, limit=False)
        reply(answer)


def _error(why: str, start: float, *, limit: bool) -> str:
    return json.dumps({"error": why, "limit": limit, "seconds": time.process_time() - start})


def _limit(seconds: int, memory: int | None) -> None:
    """From now on."""
    if sys.platform == "win32":
        return
    import resource

    def lower(kind: int, bound: int) -> None:
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))

    lower(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)
    pages = Path("/proc/self/statm")
    if memory is not None and pages.exists():
        lower(resource.RLIMIT_AS, int(pages.read_text().split()[0]) * resource.getpagesize() + memory)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was written last, and nobody reads
            if pipe is not None:
                pipe.close()
