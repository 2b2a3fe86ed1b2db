"""stdout and stderr as they may be found: closed, full, cut off, or of an encoding that lacks most characters."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from hubquant.cli.log import Logged
from hubquant.cli.text import PLAINER
from hubquant.errors import HubquantError
from hubquant.printable import plain
from hubquant.redaction import without_secrets


class OutputLost(HubquantError):
    """stdout takes no more data."""


class ReaderGone(HubquantError):
    """Whoever read stdout has stopped to, as ``head`` does."""

    exit_code = 141  # of a process that SIGPIPE ended


@contextmanager
def guarded(*, as_json: bool, log: Callable[[str], object] | None = None, stamps: bool = False) -> Iterator[None]:
    """``sys.stdout`` raises ``OutputLost`` or ``ReaderGone``; ``sys.stderr`` never fails, and work goes on without it.

    With ``as_json`` whatever a library writes to stderr becomes a JSON line too; ``log`` gets each line, and with
    ``stamps`` each is shown with the time.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _Guarded(before[0], _lose)
    stderr: _Guarded | Logged = _Guarded(before[1], lambda _: None)
    if log is not None or stamps:
        stderr = Logged(stderr, log, stamps=stamps)
    sys.stderr = stderr
    lines = _JsonLines(stderr) if as_json else None
    if lines is not None:
        sys.stderr = lines
    try:
        yield
    finally:
        if lines is not None:
            lines.finish()
        sys.stdout, sys.stderr = before


class _Guarded(io.TextIOBase):
    """``stream`` (None: it was closed when the process started), with ``failed`` for what goes wrong there."""

    def __init__(self, stream: TextIO | None, failed: Callable[[OSError], None]) -> None:
        self._stream, self._failed = stream, failed
        self._lost = None if stream else OSError(errno.EBADF, "it is closed")
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAINER)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return PLAINER

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError(errno.EBADF, "it is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def _try(self, action: Callable[[TextIO], object]) -> None:
        try:
            if self._stream is not None and self._lost is None:
                action(self._stream)
        except OSError as error:
            self._lost = error
            self._drop()
        if self._lost is not None:  # each time: click tries an empty write and swallows what that raises
            self._failed(self._lost)

    def _drop(self) -> None:
        """What is still in the buffer goes nowhere, or else the interpreter would fail on it once more at its end."""
        if isinstance(self._stream, io.TextIOWrapper):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


class _JsonLines(io.TextIOBase):
    """Lines that are JSON objects pass; any other becomes the text of one."""

    def __init__(self, stream: _Guarded | Logged) -> None:
        self._stream, self._begun, self._lock = stream, "", threading.RLock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        with self._lock:
            if self._begun and text.startswith("{"):  # what a library has begun stays a line of its own
                self._begun += "\n"
            *lines, self._begun = (self._begun + text).replace("\r", "\n").split("\n")
            for line in filter(str.strip, lines):
                self._stream.write(_json_line(line) + "\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def finish(self) -> None:
        self.write("\n")
        self.flush()


def _json_line(line: str) -> str:
    if line.startswith("{"):
        try:
            json.loads(line)
        except ValueError:
            pass
        else:
            return line
    return json.dumps({"event": "log", "text": plain(without_secrets(line))})


def _lose(error: OSError) -> None:
    if error.errno == errno.EPIPE:
        raise ReaderGone("the reader of stdout is gone") from None
    why = "stdout is closed" if error.errno == errno.EBADF else error.strerror
    raise OutputLost("the result cannot be written to stdout", why=why) from None


def fill_closed_descriptors() -> None:
    """Before any file is opened: it would be number 1 or 2, and get what belongs on a terminal."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
