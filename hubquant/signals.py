"""Ctrl-C, SIGTERM and SIGHUP end the work as an error would: every ``with`` is left, every child process ended."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE = 8.0  # seconds; what a kill leaves behind is in order too, so nothing is lost after them


class Stopped(BaseException):
    """A signal asks this process to end. No ``KeyboardInterrupt``: libraries make something of their own of that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def stopping(farewell: str, grace: float = GRACE) -> Iterator[None]:
    """Within, the first signal raises ``Stopped`` and another one ends the process at once. So do ``grace`` seconds,
    with ``farewell`` on stderr, where a library has swallowed the exception or does not come back to Python.

    What this process was told to ignore (nohup, a job in the background) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    stopped: Stopped | None = None

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os._exit(128 + number)
        stopped = Stopped(number)
        raise stopped

    for number in before:
        signal.signal(number, stop)
    try:
        with _quiet_where_lost(), _ending_after(grace, before.keys(), farewell):
            yield
    except Exception:
        if stopped is not None:  # a library has made an error of its own of it
            raise stopped from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_where_lost() -> Iterator[None]:
    """Within, Python tells nothing of a ``Stopped`` that it cannot raise, as in a callback: the grace ends all the
    same."""
    tell = sys.unraisablehook

    def tell_others(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Stopped):
            tell(lost)

    sys.unraisablehook = tell_others
    try:
        yield
    finally:
        sys.unraisablehook = tell


@contextmanager
def _ending_after(grace: float, numbers: Collection[int], farewell: str) -> Iterator[None]:
    """Within, the process ends ``grace`` seconds after one of the signals ``numbers``, also where the main thread does
    not come to handle it."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        with ours:
            first = next((number for number in iter(lambda: ours.recv(1), b"") if number[0] in numbers), None)
            if first is None:
                return
            ours.settimeout(grace)
            with suppress(TimeoutError):
                if all(number[0] not in numbers for number in iter(lambda: ours.recv(1), b"")):
                    return
            with suppress(OSError):  # past sys.stderr, which the main thread may hold
                os.write(2, f"{farewell}\n".encode())
            end_at_once(128 + first[0])

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()


if hasattr(os, "register_at_fork"):  # or else what stops a child of multiprocessing would be told to this process
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def end_at_once(code: int) -> NoReturn:
    """Whatever a library is still at, in a thread or in a process of its own, ends here."""
    try:
        import psutil

        children = psutil.Process().children(recursive=True)
        for child in children:
            with suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=5)
    finally:
        os._exit(code)


def die_quietly() -> None:
    """Until ``stopping`` and after it, a signal just ends the process, without Python's traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
