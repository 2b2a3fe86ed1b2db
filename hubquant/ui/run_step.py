"""Step 3: a job as it runs, and what it has made. The address of the page names the job: it can be opened anywhere."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hubquant.errors import HubquantError
from hubquant.jobs.job import FINISHED
from hubquant.ui.desk import Desk
from hubquant.ui.html import error_message, message
from hubquant.ui.identity import Visitor
from hubquant.ui.jobs_step import jobs_table
from hubquant.ui.progress import job_card, log_lines
from hubquant.ui.result import result_card, shown_card

EVERY = 1.5  # seconds
NOTHING = message("No job is chosen", hint="Start one in step 2, or choose one under Jobs.", kind="note")
Updates = tuple[Any, ...]


class RunStep:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.status = gr.HTML(NOTHING, elem_id="status")
        with gr.Row():
            self.cancel = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
            self.retry = gr.Button("Go on", visible=False, elem_id="retry")
            self.remove = gr.Button("Remove this job and its files", visible=False, elem_id="remove")
        self.result = gr.HTML(elem_id="result")
        with gr.Accordion("The model card, as the Hub will show it", open=False, visible=False) as self.card_box:
            self.card = gr.HTML(elem_id="card")
        with gr.Accordion("Log", open=False):
            self.log = gr.Textbox(label="Log", lines=12, max_lines=24, interactive=False, elem_id="log")
        self.timer = gr.Timer(EVERY, active=False)
        self.seen = gr.State(None)
        self.outputs = [
            self.status,
            self.log,
            self.result,
            self.card,
            self.card_box,
            self.cancel,
            self.retry,
            self.remove,
            self.timer,
            self.seen,
        ]

    def wire(self, job: gr.Textbox, tabs: gr.Tabs, table: gr.HTML) -> None:
        desk = self._desk
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

        def show(id: str, request: gr.Request) -> Updates:
            return self._show(id, None, request)

        def tick(id: str, seen: object, request: gr.Request) -> Updates:
            return self._show(id, seen, request)

        job.change(show, job, self.outputs, queue=False, **quiet)
        self.timer.tick(tick, [job, self.seen], self.outputs, queue=False, **quiet)

        def cancel(id: str, request: gr.Request) -> Updates:
            return self._after(lambda visitor: desk.cancel(visitor, id), id, request)

        def retry(id: str, request: gr.Request) -> Updates:
            return self._after(lambda visitor: desk.retry(visitor, id), id, request)

        def remove(id: str, request: gr.Request) -> Updates:
            visitor = desk.visitor(request)
            try:
                desk.remove(visitor, id)
            except HubquantError as error:
                return gr.skip(), error_message(error), gr.skip(), gr.skip()
            return "", NOTHING, jobs_table(desk.jobs(visitor)), gr.Tabs(selected="jobs")

        self.cancel.click(cancel, job, self.outputs, **quiet)
        self.retry.click(retry, job, self.outputs, **quiet)
        self.remove.click(remove, job, [job, self.status, table, tabs], **quiet)

    def _after(self, act: Any, id: str, request: gr.Request) -> Updates:
        try:
            act(self._desk.visitor(request))
        except HubquantError as error:
            return (error_message(error), *[gr.skip()] * (len(self.outputs) - 1))
        return self._show(id, None, request)

    def _show(self, id: str, seen: object, request: gr.Request) -> Updates:
        """What has not changed since ``seen`` is left as it is."""
        desk = self._desk
        hidden, still = gr.Button(visible=False), gr.Timer(active=False)
        if not id:
            return NOTHING, "", "", "", gr.Accordion(visible=False), hidden, hidden, hidden, still, None
        visitor = desk.visitor(request)
        try:
            job, events = desk.job(visitor, id), desk.events(visitor, id)
        except HubquantError as error:
            shown = error_message(error)
            return shown, "", "", "", gr.Accordion(visible=False), hidden, hidden, hidden, still, None
        now = (id, job.state, job.cancelling, events[-1]["number"] if events else 0)
        finished = job.state in FINISHED
        if now == seen:
            return (job_card(job, events), *[gr.skip()] * (len(self.outputs) - 3), gr.Timer(active=not finished), now)
        result, card = self._result(id, visitor) if finished and job.has_files else ("", "")
        return (
            job_card(job, events),
            log_lines(events),
            result,
            card,
            gr.Accordion(visible=bool(card)),
            gr.Button(visible=not finished, interactive=not job.cancelling),
            gr.Button(visible=job.state in ("failed", "cancelled") and not job.lasting),
            gr.Button(visible=finished),
            gr.Timer(active=not finished),
            now,
        )

    def _result(self, id: str, visitor: Visitor) -> tuple[str, str]:
        desk = self._desk
        results, files = desk.results(visitor, id), desk.files(visitor, id)
        made = [result for result in results if any(name.startswith(f"{result.folder.name}/") for name in files)]
        cards = "".join(shown_card(id, result, files) for result in made)
        return "".join(result_card(id, result, files) for result in made), cards
