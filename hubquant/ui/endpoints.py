"""The same for programs: gradio's API, and tools of an MCP server where that is on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gradio as gr

from hubquant.errors import HubquantError
from hubquant.ui.desk import Desk
from hubquant.ui.identity import Visitor
from hubquant.ui.progress import stages
from hubquant.ui.result import as_data

Data = dict[str, Any]


def add_endpoints(desk: Desk) -> None:
    """Within the page's context. A mistake is ``{"error": …}`` with ``what``, ``why`` and ``hint``."""

    def told(request: gr.Request, make: Callable[[Visitor], Data]) -> Data:
        try:
            return make(desk.visitor(request))
        except HubquantError as error:
            return {"error": {"what": error.what, "why": error.why, "hint": error.hint}}

    def search_models(text: str, request: gr.Request) -> Data:
        """Models of the Hub with this text in their names, those with the most downloads first."""
        return told(request, lambda visitor: {"models": [asdict(found) for found in desk.search(visitor, text)]})

    def survey_model(model: str, request: gr.Request) -> Data:
        """What a model (a Hub id, or "demo") would become: if it is supported, its licence, the size of every type."""
        return told(request, lambda visitor: desk.survey(visitor, model).as_dict())

    def check_recipe(recipe: str, request: gr.Request) -> Data:
        """What a recipe in YAML comes to: files, sizes, memory, disk and time. Nothing is started."""
        return told(request, lambda visitor: asdict(desk.check(visitor, recipe)))

    def start_job(recipe: str, request: gr.Request) -> Data:
        """Queue a recipe in YAML, and return the id of its job."""
        return told(request, lambda visitor: {"job": desk.submit(visitor, recipe).id})

    def list_jobs(request: gr.Request) -> Data:
        """Your jobs, the newest first."""
        return told(request, lambda visitor: {"jobs": [job_data(job) for job in desk.jobs(visitor)]})

    def get_job(job: str, request: gr.Request, after: int = 0) -> Data:
        """The state of a job, its stages, and its events with a number above ``after``."""

        def make(visitor: Visitor) -> Data:
            events = desk.events(visitor, job)
            found = [asdict(stage) for stage in stages(events)]
            later = [event for event in events if event["number"] > after]
            return {**job_data(desk.job(visitor, job)), "stages": found, "events": later}

        return told(request, make)

    def get_result(job: str, request: gr.Request) -> Data:
        """What a job has made: measurements, and files with the addresses where you can take them."""

        def make(visitor: Visitor) -> Data:
            files = desk.files(visitor, job)
            return {"results": [as_data(job, result, files) for result in desk.results(visitor, job)]}

        return told(request, make)

    def cancel_job(job: str, request: gr.Request) -> Data:
        """End a job; what is finished of it is kept, and starting it again goes on from there."""
        return told(request, lambda visitor: job_data(desk.cancel(visitor, job)))

    for function in (search_models, survey_model, check_recipe, start_job, list_jobs, get_job, get_result, cancel_job):
        gr.api(function, api_name=function.__name__, concurrency_limit=8)


def job_data(job: Any) -> Data:
    names = ("id", "title", "state", "created", "started", "finished", "position", "error", "cancelling")
    return {name: getattr(job, name) for name in names}
