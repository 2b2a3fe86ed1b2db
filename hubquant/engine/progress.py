"""What long work tells its caller. The engine speaks to this interface; the command line renders it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

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
