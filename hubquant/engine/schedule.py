"""What is left to do, and in which order: tasks that share something run beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hubquant.engine.task import Pass, Shared, Task, closure

if TYPE_CHECKING:
    from hubquant.engine.store import Store

Tasks = Sequence[Task[Any]]


@dataclass(frozen=True)
class Stage:
    """Tasks that run with what they share, opened once."""

    tasks: Tasks
    shares: Shared | Pass | None


@dataclass(frozen=True)
class Step:
    """The tasks of one name, as a plan shows them."""

    name: str
    detail: str
    done: bool = False


def missing(goals: Iterable[Task[Any]], store: Store) -> list[Task[Any]]:
    """The goals that are not there, and what must be made for them first: each once and after its inputs."""
    found: dict[Task[Any], None] = {}

    def visit(task: Task[Any]) -> None:
        if task in found or store.has(task):
            return
        for each in task.inputs.values():
            visit(each)
        found[task] = None

    for goal in goals:
        visit(goal)
    return list(found)


def stages(tasks: Iterable[Task[Any]]) -> list[Stage]:
    """``tasks`` in an order in which inputs come first and everything that shares something runs in one stage.

    Where one of those that share waits for another of them, they run in several stages.
    """
    left = list(tasks)
    found = []
    while left:
        waiting = {task for task in left if any(each in left for each in task.inputs.values())}
        ready = [task for task in left if task not in waiting]
        whole = [task for task in ready if task.shares is None or task.shares not in {t.shares for t in waiting}]
        first = (whole or ready)[0]
        shares = first.shares
        together = [first] if shares is None else [task for task in ready if task.shares == shares]
        found.append(Stage(together, shares))
        left = [task for task in left if task not in together]
    return found


@dataclass(frozen=True)
class Estimate:
    """What making some tasks takes: bytes, and seconds where they are known from earlier work on this machine."""

    steps: tuple[Step, ...]
    ram_bytes: int
    device_bytes: int
    disk_bytes: int
    download_bytes: int
    seconds: float | None


def estimate(tasks: Iterable[Task[Any]], left: Tasks, rates: Mapping[str, float]) -> Estimate:
    """Of ``tasks``, as a plan lists them, of which ``left`` are to be made."""
    costs = [task.cost for task in left]
    return Estimate(
        steps(tasks, left),
        ram_bytes=max((cost.ram_bytes for cost in costs), default=0),
        device_bytes=max((cost.device_bytes for cost in costs), default=0),
        disk_bytes=sum(cost.disk_bytes for cost in costs) + max((cost.scratch_bytes for cost in costs), default=0),
        download_bytes=sum(cost.download_bytes for cost in costs),
        seconds=_seconds(left, rates),
    )


def steps(tasks: Iterable[Task[Any]], left: Tasks) -> tuple[Step, ...]:
    """One step for all tasks of the same name; ``left`` are those to be made."""
    by_name: dict[str, list[Task[Any]]] = {}
    for task in closure(tasks):
        if task.step:
            by_name.setdefault(task.step, []).append(task)
    return tuple(
        Step(name, ", ".join(dict.fromkeys(filter(None, (task.detail for task in named)))), not {*named} & {*left})
        for name, named in by_name.items()
    )


def _seconds(left: Tasks, rates: Mapping[str, float]) -> float | None:
    """None where one of the rates is not known yet."""
    working = [task for task in left if task.cost.work]
    if any(task.rate not in rates for task in working):
        return None
    return sum(task.cost.work * rates[task.rate] for task in working)
