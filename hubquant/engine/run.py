"""Carry out a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hubquant.engine.assemble import assemble
from hubquant.engine.output_folder import OutputFolder
from hubquant.engine.plan import Plan
from hubquant.engine.progress import Progress
from hubquant.engine.report import Report
from hubquant.engine.reuse import discard_damaged
from hubquant.engine.steps import Work, measure_files, observe_model, quantize
from hubquant.engine.verifying import verify
from hubquant.engine.workspace import Workspace

if TYPE_CHECKING:
    from hubquant.hub.push import Pushed


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
    return publish(report, plan, progress) if plan.recipe.publish.to else report


def publish(report: Report, plan: Plan, progress: Progress) -> Report:
    pushed = push_folder(OutputFolder(plan.output), str(plan.recipe.publish.to), plan.recipe.publish.private, progress)
    return report.published(pushed.url)


def push_folder(folder: OutputFolder, to: str, private: bool, progress: Progress) -> Pushed:
    """Upload what hubquant made in ``folder``, which is listed first."""
    from hubquant.hub.push import push

    digests = folder.publishable()
    progress.step("push", f"{to}: {', '.join(digests)}")
    total = sum((folder.root / name).stat().st_size for name in digests)
    with progress.bar("push", total, "B") as advance:
        pushed = push(folder.root, digests, to, private=private, advance=advance)
    if not pushed.uploaded:
        progress.note(f"{to} holds all of it already")
    return pushed
