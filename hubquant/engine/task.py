"""What can be made: a frozen value that knows all it depends on, what it costs, how it is made and how it is read.

A task is planned, made into a folder of the store and read from there; nothing but its key tells whether it has been
made. Tasks are picklable, so that they can be made elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from hubquant.engine.progress import Progress
    from hubquant.engine.store import Store

T_co = TypeVar("T_co", covariant=True)

FP32_BYTES = 4  # of a weight in memory while it is worked on


def fingerprint(made_from: Any) -> str:
    """sha256 hex of the canonical JSON of plain data."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Cost:
    """Upper estimates in bytes. ``work`` is what the time is proportional to, in a unit of the task's kind, such as
    weights times tokens; ``scratch_bytes`` are on the disk only while the task is made, and ``download_bytes`` are
    those that are not on this machine yet."""

    ram_bytes: int = 0
    device_bytes: int = 0
    disk_bytes: int = 0
    scratch_bytes: int = 0
    download_bytes: int = 0
    work: float = 0.0


@dataclass(frozen=True)
class Context:
    """What a task is made with: where the artifacts are, whom to tell, and what its ``shares`` has opened."""

    store: Store
    progress: Progress
    held: Any = None

    def read(self, task: Task[T_co]) -> T_co:
        """The result of a task that has been made."""
        return task.read(self.store.path(task))


class Shared(ABC):
    """What tasks hold open together while they run. Equal ones are the same: opened once, closed after the last task.

    Subclasses are frozen dataclasses.
    """

    @abstractmethod
    def open(self, context: Context) -> AbstractContextManager[Any]:
        """What the tasks get as ``context.held``."""


class Pass(ABC):
    """One pass over something large that makes every task that shares it. Equal ones are the same pass.

    Subclasses are frozen dataclasses.
    """

    @abstractmethod
    def make(self, tasks: Sequence[tuple[Any, Path]], context: Context) -> None:
        """Make all ``tasks``, each in its folder."""


class Task(ABC, Generic[T_co]):
    """One thing to make. Subclasses are frozen dataclasses that compare by their key.

    ``kind`` names the folder of the store, ``version`` changes when the same ``made_from`` gives another content. What
    ``tells_of_inputs`` holds for these very inputs: it is made again whenever one of them is.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    tells_of_inputs: ClassVar[bool] = False

    @property
    @abstractmethod
    def made_from(self) -> Mapping[str, Any]:
        """Everything the content depends on beside the inputs, as plain data."""

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        """The tasks whose results this one reads."""
        return {}

    @property
    def step(self) -> str:
        """What a plan calls the work; nothing where there is none."""
        return self.kind

    @property
    def detail(self) -> str:
        """What tells it apart from others of its step."""
        return ""

    @property
    def label(self) -> str:
        """What a message calls the artifact."""
        return f"{self.detail} {self.kind}".strip()

    @property
    def cost(self) -> Cost:
        return Cost()

    @property
    def rate(self) -> str:
        """Tasks of one rate take a time in proportion to their work."""
        return self.kind

    @property
    def shares(self) -> Shared | Pass | None:
        return None

    @abstractmethod
    def make(self, folder: Path, context: Context) -> None:
        """Make the content in ``folder``, which may hold what a killed process left. Not called where a pass does."""

    @abstractmethod
    def read(self, folder: Path) -> T_co:
        """The result, from the folder that ``make`` filled."""

    @cached_property
    def key(self) -> str:
        """sha256 hex of the kind, its version, ``made_from`` and the keys of the inputs."""
        inputs = {name: task.key for name, task in self.inputs.items()}
        return fingerprint([self.kind, self.version, dict(self.made_from), inputs])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


class Found(Task[T_co]):
    """What is not kept in the store, such as a file of the user or the Hub's own cache."""

    kind = "found"

    @abstractmethod
    def is_there(self) -> bool: ...

    @property
    def step(self) -> str:
        return ""

    def make(self, folder: Path, context: Context) -> None:
        """Nothing: what is always there need not be made."""


def closure(goals: Iterable[Task[Any]]) -> Iterator[Task[Any]]:
    """``goals`` with everything they depend on, each once and after its inputs."""
    seen: set[str] = set()

    def visit(task: Task[Any]) -> Iterator[Task[Any]]:
        if task.key in seen:
            return
        seen.add(task.key)
        for each in task.inputs.values():
            yield from visit(each)
        yield task

    for goal in goals:
        yield from visit(goal)
