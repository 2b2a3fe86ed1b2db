"""``--log-file`` and ``--verbose``: what stderr shows, with the time, and never a token."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hubquant.disk import user_path
from hubquant.errors import OutputError
from hubquant.redaction import without_secrets


def stamped(line: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {without_secrets(line)}"


class Lines:
    """Calls ``take`` with each line, once it is complete."""

    def __init__(self, take: Callable[[str], object]) -> None:
        self._take, self._begun, self._lock = take, "", threading.RLock()

    def write(self, text: str) -> None:
        with self._lock:
            *lines, self._begun = (self._begun + text).replace("\r", "\n").split("\n")
            for line in filter(str.strip, lines):
                self._take(line)


class Logged(io.TextIOBase):
    """A stream whose lines go to ``log`` too, and with ``stamps`` are shown with the time.

    ``shown`` is the stream alone: what moves on a terminal does not belong in a file.
    """

    def __init__(self, shown: io.TextIOBase, log: Callable[[str], object] | None, *, stamps: bool) -> None:
        self.shown, self.log = shown, log
        self.stamps = stamps
        self._lines = Lines(self._line)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return str(self.shown.encoding)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return not self.stamps and self.shown.isatty()

    def fileno(self) -> int:
        return self.shown.fileno()

    def write(self, text: str) -> int:
        if not self.stamps:
            self.shown.write(text)
        self._lines.write(text)
        return len(text)

    def flush(self) -> None:
        self.shown.flush()

    def _line(self, line: str) -> None:
        if self.stamps:
            self.shown.write(stamped(line) + "\n")
            self.shown.flush()
        if self.log is not None:
            self.log(line)


@contextmanager
def log_file(path: str | None) -> Iterator[Callable[[str], object] | None]:
    """A function that appends a line to ``path``. Raises ``OutputError`` where that cannot be written; what fails
    later is not missed."""
    if path is None:
        yield None
        return
    place = user_path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as error:
        raise OutputError(f"{path} cannot be written", why=error.strerror, hint="name another --log-file") from None

    def append(line: str) -> None:
        try:
            file.write(stamped(line) + "\n")
        except (OSError, ValueError):  # full, or closed while a thread of a library ends
            return

    try:
        yield append
    finally:
        with suppress(OSError):
            file.close()
