"""Small tasks for tests of what runs tasks: texts that are put together of other texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hubquant.engine.task import Context, Cost, Found, Pass, Shared, Task

LOG = "log.txt"  # in the store: what was done, a line each


def log(context: Context, line: str) -> None:
    with (context.store.root / LOG).open("a") as file:
        file.write(f"{line}\n")


def logged(root: Path) -> list[str]:
    """What was done since it was asked last."""
    path = root / LOG
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


@dataclass(frozen=True)
class Bell(Shared):
    name: str

    @contextmanager
    def open(self, context: Context) -> Iterator[str]:
        log(context, f"open {self.name}")
        yield self.name
        log(context, f"close {self.name}")


@dataclass(frozen=True)
class Sweep(Pass):
    name: str

    def make(self, tasks: Sequence[tuple[Text, Path]], context: Context) -> None:
        log(context, f"{self.name}: {' '.join(task.word for task, _ in tasks)}")
        for task, folder in tasks:
            task.make(folder, context)


@dataclass(frozen=True, eq=False)
class Text(Task[str]):
    """``word`` after the words of ``parts``; ``fails`` once it was logged."""

    kind = "text"

    word: str
    parts: tuple[Task[str], ...] = ()
    with_: Shared | Pass | None = None
    work: float = 0
    fails: bool = False

    @property
    def detail(self) -> str:
        return self.word

    @property
    def inputs(self) -> Mapping[str, Task[str]]:
        return {str(number): part for number, part in enumerate(self.parts)}

    @property
    def made_from(self) -> Mapping[str, str]:
        return {"word": self.word}

    @property
    def cost(self) -> Cost:
        return Cost(ram_bytes=len(self.word), disk_bytes=10, work=self.work)

    @property
    def shares(self) -> Shared | Pass | None:
        return self.with_

    def make(self, folder: Path, context: Context) -> None:
        log(context, self.word)
        (folder / "half.txt").write_text(self.word)
        if self.fails:
            raise ValueError(self.word)
        (folder / "half.txt").unlink()
        (folder / "text.txt").write_text(" ".join([*(context.read(part) for part in self.parts), self.word]))

    def read(self, folder: Path) -> str:
        return (folder / "text.txt").read_text()


@dataclass(frozen=True, eq=False)
class Judged(Text):
    kind = "judged"
    tells_of_inputs = True


@dataclass(frozen=True, eq=False)
class Given(Found[str]):
    word: str

    @property
    def made_from(self) -> Mapping[str, str]:
        return {"word": self.word}

    def is_there(self) -> bool:
        return True

    def read(self, folder: Path) -> str:  # noqa: ARG002
        return self.word
