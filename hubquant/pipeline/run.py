"""Carry out a plan."""

from __future__ import annotations

from typing import Any

from hubquant.engine.local import make
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context, Task
from hubquant.pipeline.assemble import assemble
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.plan import Plan, make_plan
from hubquant.pipeline.push import push_folder
from hubquant.publish.report import Report


def execute(plan: Plan, store: Store, progress: Progress, *, fresh: bool = False) -> Report:
    """Make what is missing of ``plan``, assemble the repository in ``plan.output``, publish it if the recipe says so.

    Can be killed at any moment: the same plan goes on from what is finished. ``fresh`` makes everything again.
    """
    measured: list[Task[Any]] = []
    if plan.work.undecided:
        plan, measured = decided(plan, store, progress, fresh=fresh)
    for note in plan.notes:
        progress.note(note)
    folder = OutputFolder(plan.output, store)
    with folder.locked():
        folder.save()
        with store.using(plan.tasks.goals):
            make(plan.tasks.goals, store, progress, fresh=fresh, but=measured)
            context = Context(store, progress)
            make([task for task in plan.tasks.of_those_kept(context) if not store.has(task)], store, progress)
            report = assemble(plan, context, folder)
        folder.forget_earlier_state()
        if plan.recipe.publish.to is None:
            return report
        pushed = push_folder(folder, plan.recipe.publish, progress)
        return report.published(pushed.url)


def decided(plan: Plan, store: Store, progress: Progress, *, fresh: bool = False) -> tuple[Plan, list[Task[Any]]]:
    """What ``plan`` is once it is measured what the types of its files are chosen by, and what was made for that."""
    sensitivity = plan.tasks.sensitivity
    assert sensitivity is not None
    assert plan.asked is not None
    made = make([sensitivity], store, progress, fresh=fresh)
    return make_plan(plan.asked, plan.output, store, progress, plan.device), made
