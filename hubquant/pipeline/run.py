"""Carry out a plan."""

from __future__ import annotations

from dataclasses import replace

from hubquant.engine.progress import Progress
from hubquant.engine.store import Workspace
from hubquant.pipeline.assemble import assemble
from hubquant.pipeline.output_folder import OutputFolder
from hubquant.pipeline.plan import Plan
from hubquant.pipeline.push import push_folder
from hubquant.pipeline.reuse import discard_damaged
from hubquant.pipeline.verify import verify
from hubquant.pipeline.work import Work, measure_files, observe_model, quantize
from hubquant.publish.report import Report


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
