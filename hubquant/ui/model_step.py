"""Step 1: find a model, and see at once what could become of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import gradio as gr

from hubquant.errors import HubquantError
from hubquant.recipe.references import is_model
from hubquant.ui.desk import Desk
from hubquant.ui.form import DEMO, START, read_form, write_form
from hubquant.ui.html import error_message, found_models, message, survey_card

if TYPE_CHECKING:
    from hubquant.commands.survey import Survey
    from hubquant.ui.recipe_step import RecipeStep

GB = 1e9
LONGEST = 300  # characters of what is typed
SHOW_FILES = '() => ({__type__: "update", selected: "files"})'


class ModelStep:
    def __init__(self, desk: Desk, memory: int) -> None:
        self._desk = desk
        with gr.Row():
            self.box = gr.Textbox(
                label="Model",
                info="A name such as Qwen/Qwen3-0.6B, its address on the Hub, or a word to search for.",
                placeholder="Qwen/Qwen3-0.6B",
                max_length=LONGEST,
                scale=5,
                elem_id="model",
            )
            self.look = gr.Button("Look", variant="primary", scale=1, min_width=96, elem_id="look")
        self.demo = gr.Button("Try it with the small demo model: no download, a minute", size="sm", elem_id="demo")
        self.found = gr.Radio(label="Found on the Hub", visible=False, elem_id="found")
        with gr.Accordion("What should it run on?", open=False), gr.Row():
            self.ram = gr.Number(label="Memory of the computer (GB)", value=round(memory / GB), minimum=0, precision=1)
            self.vram = gr.Number(label="Memory of the graphics card (GB), 0 for none", value=0, minimum=0, precision=1)
        # Above what is long or short: a press is lost where the button moves away under it.
        self.go = gr.Button("Choose files", variant="primary", visible=False)
        self.about = gr.HTML(elem_id="about")

    def wire(self, survey: gr.State, recipe: RecipeStep, tabs: gr.Tabs) -> None:
        outputs = [self.box, self.found, self.about, survey, self.go, recipe.code]

        def look(
            typed: str, ram: float | None, vram: float | None, text: str, request: gr.Request
        ) -> tuple[object, ...]:
            return self._look(typed, ram, vram, text, request)

        def demo(ram: float | None, vram: float | None, text: str, request: gr.Request) -> tuple[object, ...]:
            return self._look(DEMO, ram, vram, text, request)

        memories = [self.ram, self.vram]
        events = [
            recipe.edited(self.box.submit, self.look.click).then(
                look,
                [self.box, *memories, recipe.code],
                outputs,
                api_visibility="private",
                concurrency_limit=8,
                concurrency_id="survey",
            ),
            recipe.edited(self.found.input).then(
                look, [self.found, *memories, recipe.code], outputs, api_visibility="private", concurrency_id="survey"
            ),
            recipe.edited(self.demo.click).then(
                demo, [*memories, recipe.code], outputs, api_visibility="private", concurrency_id="survey"
            ),
        ]
        for event in events:
            event.then(
                recipe.show,
                [recipe.code, survey, recipe.every],
                recipe.outputs,
                api_visibility="private",
                trigger_mode="always_last",
                queue=False,  # or its end may close the stream of answers that a look, begun meanwhile, waits on
            )

        def fit(found: Survey | None, ram: float | None, vram: float | None) -> object:
            return gr.skip() if found is None else survey_card(found, (ram or 0) * GB, (vram or 0) * GB)

        gr.on(
            [self.ram.input, self.vram.input],
            fit,
            [survey, *memories],
            self.about,
            api_visibility="private",
            show_progress="hidden",
            queue=False,
        )
        # In the browser: the server may be busy with another look.
        self.go.click(None, None, tabs, js=SHOW_FILES, api_visibility="private")

    def _look(
        self, typed: str, ram: float | None, vram: float | None, text: str, request: gr.Request
    ) -> tuple[object, ...]:
        typed = (typed or "").strip()
        desk, visitor = self._desk, self._desk.visitor(request)
        hidden, nothing = gr.Radio(visible=False), gr.Button(visible=False)
        try:
            if not _names_a_model(typed):
                found = desk.search(visitor, typed)
                if found:
                    choices = gr.Radio(choices=found_models(found), value=None, visible=True)
                    return gr.skip(), choices, "", None, nothing, gr.skip()
                said = message(f"Nothing called {typed!r} was found on the Hub", hint="Try another word.")
                return gr.skip(), hidden, said, None, nothing, gr.skip()
            survey = desk.survey(visitor, typed)
            card = survey_card(survey, (ram or 0) * GB, (vram or 0) * GB)
            if not survey.supported or not survey.access:
                return typed, gr.skip(), card, None, nothing, gr.skip()
            return typed, gr.skip(), card, survey, gr.Button(visible=True), _with_model(text, typed)
        except HubquantError as error:
            return gr.skip(), hidden, error_message(error), None, nothing, gr.skip()


def _names_a_model(typed: str) -> bool:
    return typed == DEMO or ("/" in typed and is_model(typed)) or not typed


def _with_model(text: str, model: str) -> str:
    """The recipe, if it is one, with another model; published nowhere yet, as that was for the other one."""
    try:
        form = read_form(text)
        return text if form.model == model else write_form(text, replace(form, model=model, to=""))
    except HubquantError:
        return write_form(START, replace(read_form(START), model=model))
