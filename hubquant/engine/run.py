"""Carry out a plan."""

from __future__ import annotations

from dataclasses import replace

from hubquant.engine.assemble import assemble
from hubquant.engine.output_folder import OutputFolder
from hubquant.engine.plan import Plan
from hubquant.engine.progress import Progress
from hubquant.engine.pushing import push_folder
from hubquant.engine.report import Report
from hubquant.engine.reuse import discard_damaged
from hubquant.engine.steps import Work, measure_files, observe_model, quantize
from hubquant.engine.verifying import verify
from hubquant.engine.workspace import Workspace


def execute(plan: Plan, progress: Progress, *, fresh: bool = False) -> Report:
    """Make what is missing of ``plan``, assemble the repository in ``plan.output``, publish it if the recipe says so.

    Can be killed at any moment: the same plan goes on from what is finished. ``fresh`` forgets it first.
    """
    for note in plan.notes:
        progress.note(note)
    workspace = Workspace(plan.output)
    folder = OutputFolder(plan.output)
    with workspace.locked():
        folder.save()
        if fresh:
            workspace.forget_artifacts()
        work = Work(plan, plan.source, workspace, progress)
        discard_damaged(work)
        if work.needs_weights():
            work = replace(work, source=plan.source.download(progress))
        matrix = observe_model(work)
        quantize(work, matrix)
        verified = verify(work)
        divergences, runtimes = measure_files(work)
        report = assemble(work, folder, divergences, verified, runtimes)
        if plan.recipe.publish.to is None:
            return report
        pushed = push_folder(folder, plan.recipe.publish.to, plan.recipe.publish.private, progress)
        return report.published(pushed.url)
