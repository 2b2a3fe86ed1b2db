"""A visitor's jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from hubquant.publish.html import text
from hubquant.ui.desk import Desk
from hubquant.ui.html import message, table
from hubquant.ui.progress import STATES
from hubquant.units import duration

if TYPE_CHECKING:
    from hubquant.jobs.job import Job
    from hubquant.ui.identity import Visitor


class JobsStep:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.table = gr.HTML(elem_id="jobs")
        self.refresh = gr.Button("Look again", size="sm")

    def shown(self, visitor: Visitor) -> str:
        if visitor.owner is None:
            return message("You are not signed in", hint="Sign in to see your jobs.", kind="note")
        return jobs_table(self._desk.jobs(visitor))

    def wire(self, tab: gr.Tab) -> None:
        def look(request: gr.Request) -> str:
            return self.shown(self._desk.visitor(request))

        gr.on(
            [tab.select, self.refresh.click], look, None, self.table, api_visibility="private", show_progress="hidden"
        )


def jobs_table(jobs: Sequence[Job]) -> str:
    if not jobs:
        return message("You have no jobs yet", hint="Start with a model, in step 1.", kind="note")
    now = time.time()
    rows = [
        (
            f'<a href="?job={text(job.id)}">{text(job.title)}</a>',
            f'<span class="hq-state hq-{text(job.state)}">{text(STATES[job.state])}'
            f"{f', place {job.position}' if job.state == 'queued' and job.position else ''}</span>",
            text(", ".join(job.order.recipe.quantize.names)),
            f"{duration(max(1, now - job.created))} ago",
        )
        for job in jobs
    ]
    return table("Your jobs", ("Model", "State", "Files", "Started"), rows, (3,))
