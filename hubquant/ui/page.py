"""The page: a model, what to make of it, how it goes, and what came of it."""

from __future__ import annotations

import gradio as gr

from hubquant.errors import HubquantError
from hubquant.ui.desk import Desk
from hubquant.ui.endpoints import add_endpoints
from hubquant.ui.html import header
from hubquant.ui.identity import OneUser
from hubquant.ui.jobs_step import JobsStep
from hubquant.ui.model_step import ModelStep
from hubquant.ui.recipe_step import RecipeStep
from hubquant.ui.run_step import RunStep

TITLE = "hubquant"
PUT_JOB_INTO_ADDRESS = """(id) => {
  const here = new URL(window.location);
  if (id) { here.searchParams.set("job", id); } else { here.searchParams.delete("job"); }
  window.history.replaceState(window.history.state, "", here);
}"""


def build(desk: Desk, *, memory: int) -> gr.Blocks:
    """``memory`` in bytes is that of the visitor's computer, as far as is known."""
    user = desk.identity if isinstance(desk.identity, OneUser) else None
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False, delete_cache=(3600, 86400)) as page:
        top = gr.HTML()
        if user is not None:
            _account(desk, user, top)
        survey, job = gr.State(None), gr.Textbox(visible=False, label="Job")
        with gr.Tabs(elem_id="steps") as tabs:
            with gr.Tab("1 Model", id="model"):
                model = ModelStep(desk, memory)
            with gr.Tab("2 Files", id="files"):
                recipe = RecipeStep(desk)
            with gr.Tab("3 Run", id="run"):
                run = RunStep(desk)
            with gr.Tab("Jobs", id="jobs") as jobs_tab:
                jobs = JobsStep(desk)

        def arrive(request: gr.Request) -> tuple[object, ...]:
            visitor = desk.visitor(request)
            asked = request.query_params.get("job")
            shown = gr.Tabs(selected="run") if asked else gr.skip()
            return header(visitor, by_token=user is not None), shown, asked or "", jobs.shown(visitor)

        page.load(
            arrive, None, [top, tabs, job, jobs.table], api_visibility="private", show_progress="hidden", queue=False
        )
        model.wire(survey, recipe, tabs)
        recipe.wire(survey, job, tabs)
        run.wire(job, tabs, jobs.table)
        jobs.wire(jobs_tab)
        job.change(None, job, None, js=PUT_JOB_INTO_ADDRESS, api_visibility="private")
        add_endpoints(desk)
    page.queue(default_concurrency_limit=16, max_size=1000)
    return page


def _account(desk: Desk, user: OneUser, top: gr.HTML) -> None:
    from hubquant.ui.html import error_message, message

    with gr.Accordion("Hugging Face account", open=False, elem_id="account"):
        gr.Markdown(
            "Only for private and gated models, and to publish. A token stays in this program's memory and is "
            "forgotten when it ends. Without one, the login of this machine is used (`hf auth login`)."
        )
        with gr.Row():
            token = gr.Textbox(label="Access token", type="password", placeholder="hf_…", scale=4, max_length=200)
            button = gr.Button("Sign in", scale=1)
        said = gr.HTML()

    def sign_in(token: str, request: gr.Request) -> tuple[object, ...]:
        try:
            name = user.sign_in(token.strip())
        except HubquantError as error:
            return "", error_message(error), gr.skip()
        what = f"Signed in as {name}" if name else "Signed out"
        return "", message(what, kind="good"), header(desk.visitor(request), by_token=True)

    gr.on([button.click, token.submit], sign_in, token, [token, said, top], api_visibility="private")
