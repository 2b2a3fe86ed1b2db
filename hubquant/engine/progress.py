"""What long work tells its caller. The engine speaks to this interface; the command line renders it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from hubquant.printable import message

Advance = Callable[[int], None]


class Progress(Protocol):
    """Steps, bars and notes. ``unit`` is what a bar counts: "B", "chunks", "tensors"."""

    def step(self, name: str, detail: str, *, reused: bool = False) -> None: ...

    def note(self, text: str) -> None: ...

    def doing(self, text: str) -> AbstractContextManager[None]:
        """What goes on inside ``with progress.doing(...)``, where there is nothing to count."""

    def bar(self, label: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """A bar is on show inside ``with progress.bar(...) as advance``; ``advance(n)`` counts n more units."""


class Silent:
    """Progress for callers that want none, such as the Python API."""

    def step(self, name: str, detail: str, *, reused: bool = False) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:  # noqa: ARG002
        yield

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:  # noqa: ARG002
        yield lambda _: None


class Told:
    """Progress as plain data for JSON: ``take`` gets step, note, doing, and at most once a second for each bar progress
    with done, total, unit, rate per second and seconds left."""

    def __init__(self, take: Callable[[dict[str, Any]], object]) -> None:
        self._take = take

    def tell(self, event: str, **fields: Any) -> None:
        self._take({"event": event, **fields})

    def step(self, name: str, detail: str, *, reused: bool = False) -> None:
        self.tell("step", name=name, detail=message(detail), reused=reused)

    def note(self, text: str) -> None:
        self.tell("note", text=message(text))

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        self.tell("doing", text=message(text))
        yield

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        def show(meter: Meter) -> None:
            self.tell(
                "progress",
                label=label,
                done=meter.done,
                total=total,
                unit=unit,
                rate=round(meter.rate, 3),
                seconds_left=meter.seconds_left,
            )

        yield Meter(total, every=1.0, show=show).advance


class Meter:
    """Counts units and calls ``show`` at most every ``every`` seconds, and once at the end."""

    def __init__(self, total: int, *, every: float, show: Callable[[Meter], None]) -> None:
        self.total, self.done, self.every, self.show = total, 0, every, show
        self.start = self.shown = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.done / max(time.monotonic() - self.start, 1e-9)

    @property
    def seconds_left(self) -> int | None:
        return round((self.total - self.done) / self.rate) if self.done else None

    def advance(self, n: int) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown >= self.every or (self.done >= self.total and now - self.start >= self.every):
            self.shown = now
            self.show(self)
