"""The work of one command: tasks as in a run, and what is done with their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hubquant.disk import place
from hubquant.engine.local import make
from hubquant.engine.machine import check_disk, check_memory, same_disk
from hubquant.engine.progress import Progress
from hubquant.engine.schedule import Estimate, estimate, missing
from hubquant.engine.store import Store
from hubquant.engine.task import Context, Task, closure, fingerprint

if TYPE_CHECKING:
    from hubquant.backends.gguf.files import FilePlan

T = TypeVar("T")


@dataclass(frozen=True)
class MadeFile:
    """``path`` is that of the first of ``shards`` files."""

    path: Path
    type: str
    size: int
    shards: int = 1

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "type": self.type, "size": self.size, "shards": self.shards}


@dataclass(frozen=True)
class Job(Generic[T]):
    """``goals`` are to be made, all of them again if it is ``fresh``; ``deliver`` turns what they gave into the result
    and writes the outputs."""

    goals: Sequence[Task[Any]]
    deliver: Callable[[Context], T]
    outputs: Sequence[Path]
    estimate: Estimate
    notes: Sequence[str]
    files: Sequence[FilePlan] = ()
    fresh: bool = False

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self.estimate)
        files = {"files": [file.as_dict() for file in self.files]} if self.files else {}
        return {**found, **files, "outputs": [str(path) for path in self.outputs], "notes": list(self.notes)}


def plan_job(
    goals: Sequence[Task[Any]],
    deliver: Callable[[Context], T],
    store: Store,
    *,
    outputs: Sequence[Path] = (),
    placed_bytes: int = 0,
    notes: Sequence[str] = (),
    files: Sequence[FilePlan] = (),
    less_memory: str = "use a machine with more memory",
    fresh: bool = False,
) -> Job[T]:
    """Raises a ``UserError`` where memory or disk do not suffice; ``placed_bytes`` are what ``outputs`` take."""
    found = estimate(goals, list(closure(goals)) if fresh else missing(goals, store), store.rates())
    check_memory(found.ram_bytes, less_memory)
    check_disk(found.disk_bytes + found.download_bytes, store.root, "--store")
    for folder in {path.parent for path in outputs}:
        check_disk(0 if same_disk(store.root, folder) else placed_bytes, folder, "--out")
    return Job(goals, deliver, outputs, found, notes, files, fresh)


def carry_out(job: Job[T], store: Store, progress: Progress) -> T:
    """Goes on from an earlier, killed call."""
    for note in job.notes:
        progress.note(note)
    with store.using(job.goals):
        make(job.goals, store, progress, fresh=job.fresh)
        return job.deliver(Context(store, progress))


def put(source: Path, target: Path, store: Store) -> None:
    """A file of ``store`` where the user wants it: a link where the disk has them."""
    with store.alone(fingerprint(str(target.absolute()))):
        place(source, target, target.with_name(f".{target.name}.arriving"))
