"""Make tasks on this machine."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from hubquant.engine.progress import Progress
from hubquant.engine.schedule import Stage, missing, stages, steps
from hubquant.engine.store import Store
from hubquant.engine.task import Context, Found, Pass, Task, closure


def make(
    goals: Iterable[Task[Any]],
    store: Store,
    progress: Progress,
    *,
    fresh: bool = False,
    but: Collection[Task[Any]] = (),
) -> list[Task[Any]]:
    """Make what is missing of ``goals``; returns the tasks that this process has made.

    Can be killed at any moment: the same goals go on from what is finished. What another process makes at the same time
    is waited for. What is there and damaged is made again, with a note; with ``fresh`` everything is ``but`` these.
    """
    goals = list(goals)
    with store.using(closure(goals)):
        if fresh:
            there = [task for task in closure(goals) if store.is_there(task) and task not in but]
            store.check_unused(there)
            _forget(there, store, progress)
        else:
            discard_damaged(goals, store, progress)
        left = missing(goals, store)
        for step in steps(goals, left):
            if step.done:
                progress.step(step.name, step.detail, reused=True)
        return [task for stage in stages(left) for task in _make_stage(stage, store, progress)]


def discard_damaged(goals: Sequence[Task[Any]], store: Store, progress: Progress) -> None:
    """All that is there is read: a hard link shares what is done to it in an output folder."""
    there = [task for task in closure(goals) if store.is_there(task)]
    if not there:
        return
    with progress.bar("check", sum(map(store.size, there)), "B") as advance:
        damaged = {task: problem for task in there if (problem := store.damage(task, advance))}
    for task, problem in damaged.items():
        progress.note(f"the {task.label} of an earlier run is damaged ({problem}): it is made again")
    outdated = [task for task in there if task.tells_of_inputs and not {*task.inputs.values()}.isdisjoint(damaged)]
    with store.locked({*damaged, *outdated}, lambda task: _tell_waiting(task, progress)):
        for task in {*damaged, *outdated}:
            if task in outdated or store.damage(task):  # nobody has made it again meanwhile
                store.forget(task)


def _forget(tasks: Sequence[Task[Any]], store: Store, progress: Progress) -> None:
    with store.locked(tasks, lambda task: _tell_waiting(task, progress)):
        for task in tasks:
            store.forget(task)


def _make_stage(stage: Stage, store: Store, progress: Progress) -> list[Task[Any]]:
    with store.locked(stage.tasks, lambda task: _tell_waiting(task, progress)):
        left = [task for task in stage.tasks if not store.has(task)]
        if not left:  # another process has made them meanwhile
            return []
        if isinstance(stage.shares, Pass):
            begin = time.monotonic()
            _tell(left, progress)
            from_scratch = not any(store.building_path(task).exists() for task in left)
            stage.shares.make([(task, store.open_building(task)) for task in left], Context(store, progress))
            for task in left:
                store.complete(task)
            if from_scratch:
                _learn(left, time.monotonic() - begin, store)
            return left
        with stage.shares.open(Context(store, progress)) if stage.shares else nullcontext() as held:
            context = Context(store, progress, held)
            told = None
            for task in left:
                begin = time.monotonic()
                if told != (told := (task.step, task.detail)):
                    _tell([task], progress)
                if isinstance(task, Found):
                    task.make(store.root, context)
                    continue
                from_scratch = not store.building_path(task).exists()
                task.make(store.open_building(task), context)
                store.complete(task)
                if from_scratch:
                    _learn([task], time.monotonic() - begin, store)
        return left


def _tell(tasks: Sequence[Task[Any]], progress: Progress) -> None:
    details = dict.fromkeys(filter(None, (task.detail for task in tasks)))
    progress.step(tasks[0].step, ", ".join(details))


def _tell_waiting(task: Task[Any], progress: Progress) -> None:
    progress.note(f"waiting for another hubquant process, which makes the {task.label}")


def _learn(tasks: Sequence[Task[Any]], seconds: float, store: Store) -> None:
    work = sum(task.cost.work for task in tasks)
    if work:
        store.learn({task.rate: seconds / work for task in tasks})
