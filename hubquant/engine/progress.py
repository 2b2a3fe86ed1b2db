"""What long work tells its caller. The engine speaks to this interface; the command line renders it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Steps, bars and notes. ``unit`` is what a bar counts: "B", "chunks", "tensors"."""

    def step(self, name: str, detail: str, *, reused: bool = False) -> None: ...

    def note(self, text: str) -> None: ...

    def bar(self, label: str, total: int, unit: str, done: int = 0) -> BarContext: ...


class BarContext(Protocol):
    """A bar is on show inside ``with progress.bar(...) as advance``; ``advance(n)`` counts n more units."""

    def __enter__(self) -> Advance: ...

    def __exit__(self, *error: object) -> bool | None: ...


class Silent:
    """Progress for callers that want none, such as the Python API."""

    def step(self, name: str, detail: str, *, reused: bool = False) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        yield lambda n: None
