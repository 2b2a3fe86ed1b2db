"""Step 2: which files, from what text, and where they go; the recipe as YAML beside it. Each edits the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from hubquant.errors import HubquantError, UserError
from hubquant.ui.advice import best_within, in_words, offered
from hubquant.ui.desk import Desk
from hubquant.ui.form import START, Form, read_form, write_form
from hubquant.ui.gallery import NAMES, example
from hubquant.ui.html import error_message, estimate_card, message
from hubquant.ui.uploads import ROWS, TABLES, TEXTS
from hubquant.units import size, unit

if TYPE_CHECKING:
    from hubquant.commands.survey import Survey

CALIBRATIONS = [
    ("The text that comes with hubquant: a good start", "bundled"),
    ("A dataset of the Hub", "dataset"),
    ("A file of mine", "file"),
    ("None: enough for large types, quicker", "none"),
]
MODES = [("Closest to the original", "best"), ("Byte for byte as llama.cpp", "exact")]
Updates = tuple[Any, ...]


class RecipeStep:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self._types()
                self._calibration()
                self._more()
                self._place()
            with gr.Column(scale=2, min_width=300):
                choices = [(label, name) for name, label in NAMES.items()]
                self.gallery = gr.Dropdown(choices, label="Start from an example", value=None, elem_id="gallery")
                self.code = gr.Code(START, language="yaml", label="Recipe (YAML)", lines=14, elem_id="recipe")
                gr.Markdown(
                    "The form and this text say the same; change either. In the text Tab indents: Escape, then Tab, "
                    "leaves it. `hubquant run recipe.yaml` runs it too."
                )
                self.fault = gr.HTML(elem_id="fault")
        self.said = gr.HTML(elem_id="said")
        with gr.Row():
            self.check = gr.Button("Check what it takes", elem_id="check")
            self.start = gr.Button("Start", variant="primary", elem_id="start")
        self.form = {
            "types": self.types,
            "mode": self.mode,
            "calibration": self.calibration,
            "dataset": self.dataset,
            "config": self.config,
            "split": self.split,
            "field": self.field,
            "file": self.file,
            "chat_template": self.chat_template,
            "chunks": self.chunks,
            "evaluate": self.evaluate,
            "evaluate_chunks": self.evaluate_chunks,
            "to": self.to,
            "private": self.private,
        }
        self.outputs = [
            *self.form.values(),
            self.of_dataset,
            self.of_file,
            self.of_field,
            self.limit,
            self.fault,
        ]

    def _types(self) -> None:
        gr.Markdown(
            "## Which files?\nThe numbers of a model are rounded to make it smaller. Fewer bits make a smaller file "
            "that is farther from the original; one file is enough to begin with."
        )
        self.limit = gr.Slider(0, 1, value=1, step=0.01, label="The largest file that suits you", elem_id="limit")
        with gr.Row(equal_height=True):
            self.best = gr.HTML(elem_id="best")
            self.take = gr.Button("Take it", size="sm", visible=False, min_width=96, scale=0)
        self.suggested = gr.State("")
        self.types = gr.CheckboxGroup(list(Form().types), value=list(Form().types), label="Types", elem_id="types")
        self.every = gr.Checkbox(False, label="Show every type")

    def _calibration(self) -> None:
        gr.Markdown(
            "## Calibration\nThe model reads a text, which shows which of its numbers matter most; those are kept more "
            "exactly."
        )
        self.calibration = gr.Radio(CALIBRATIONS, value="bundled", label="Text to calibrate on", elem_id="calibration")
        with gr.Group(visible=False) as self.of_dataset:
            self.dataset = gr.Textbox(label="Dataset", placeholder="Salesforce/wikitext", max_length=200)
            with gr.Row():
                self.config = gr.Textbox(label="Configuration", placeholder="wikitext-2-raw-v1", max_length=200)
                self.split = gr.Textbox("train", label="Split", max_length=100)
        with gr.Group(visible=False) as self.of_file:
            self.upload = gr.File(
                label="Text in UTF-8, or rows (.jsonl, .parquet)", file_types=[*TEXTS, *ROWS, *TABLES], elem_id="upload"
            )
            self.file = gr.Textbox(label="Chosen file", interactive=False)
            self.upload_said = gr.HTML()
        with gr.Group(visible=False) as self.of_field:
            self.field = gr.Textbox("text", label="Field of a row that holds the text or the messages", max_length=100)
            self.chat_template = gr.Checkbox(
                False, label="Put texts into the model's chat template, as a user's messages"
            )

    def _more(self) -> None:
        with gr.Accordion("Quality and measurement", open=False):
            self.mode = gr.Radio(MODES, value="best", label="How numbers are rounded")
            self.chunks = gr.Number(250, label="Chunks of text to calibrate on", minimum=1, precision=0)
            self.evaluate = gr.Checkbox(True, label="Measure every file against the original")
            self.evaluate_chunks = gr.Number(48, label="Chunks of text to measure on", minimum=1, precision=0)

    def _place(self) -> None:
        gr.Markdown("## Where to?")
        self.to = gr.Textbox(
            label="Repository on the Hub, or nothing to download the files only",
            placeholder="me/Model-GGUF",
            max_length=200,
            elem_id="to",
        )
        self.private = gr.Checkbox(False, label="Private: only you see it")

    def show(self, text: str, survey: Survey | None, every: bool) -> Updates:
        """The form, as the text has it."""
        try:
            form = read_form(text)
        except HubquantError as error:
            return (*[gr.skip()] * (len(self.outputs) - 1), error_message(error))
        return (*self._of_form(form, survey, every), _range(survey), "")

    def _of_form(self, form: Form, survey: Survey | None, every: bool) -> list[Any]:
        values = [
            gr.CheckboxGroup(choices=_choices(form, survey, every), value=list(form.types))
            if name == "types"
            else gr.Radio(choices=_kinds(form.calibration), value=form.calibration)
            if name == "calibration"
            else getattr(form, name)
            for name in self.form
        ]
        return [*values, *_shown(form.calibration)]

    def _as_shown(self, text: str, values: Sequence[Any]) -> Form:
        """What the form says, of the model that the text names."""
        return Form(model=read_form(text).model, **_as_form(dict(zip(self.form, values, strict=True))))

    def _check_agreed(self, text: str, values: Sequence[Any]) -> None:
        """Raises ``UserError`` while the one that was changed last is not yet followed by the other."""
        if write_form(text, self._as_shown(text, values)) != text:
            hint = "press again, or change one of them once more: the other follows"
            raise UserError("the form and the recipe say different things", hint=hint)

    def edited(self, *events: Any) -> Any:
        """Edits of the recipe, which take away what was said to an earlier press; ``then`` they are followed.

        They do so in the browser and at once. What follows an edit may come after the answer to a later press, so it
        leaves ``said`` alone, and stands apart because ``always_last`` repeats all that an event does by itself.
        """
        return gr.on(events, None, None, self.said, js="() => ''", api_visibility="private")

    def wire(self, survey: gr.State, job: gr.Textbox, tabs: gr.Tabs) -> None:
        desk = self._desk
        inner = [self.of_dataset, self.of_file, self.of_field]
        both, edited = [self.code, *self.form.values()], [self.code, self.fault, *inner]
        quiet: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "trigger_mode": "always_last",
        }
        # Gradio would hold what is chosen against what the server offered last, which the page may not show yet.
        unchecked: dict[str, Any] = {**quiet, "preprocess": False}

        def edit(text: str, *values: Any) -> Updates:
            try:
                form = self._as_shown(text, values)
                return write_form(text, form), "", *_shown(form.calibration)
            except HubquantError as error:
                return gr.skip(), error_message(error), *_shown(values[list(self.form).index("calibration")])

        changes = [component.input for name, component in self.form.items() if name != "file"]
        # What is pasted while a box is being drawn makes no event of input.
        changes += [box.blur for box in (self.to, self.dataset, self.config, self.split, self.field)]
        self.edited(*changes).then(edit, both, edited, **unchecked)
        self.edited(self.code.input, self.every.input).then(
            self.show, [self.code, survey, self.every], self.outputs, **quiet
        )

        def start_from(name: str | None, text: str) -> object:
            if not name:
                return gr.skip()
            try:
                model = read_form(text).model
            except HubquantError:
                model = "demo"
            return example(name, model)

        self.edited(self.gallery.input).then(start_from, [self.gallery, self.code], self.code, **quiet).then(
            self.show, [self.code, survey, self.every], self.outputs, **quiet
        )

        def suggest(limit: float, found: Survey | None) -> Updates:
            best = best_within(found.types, limit * _scale(found)) if found else None
            if best is None:
                said = "No file is that small." if found else "Look at a model first."
                return message(said, kind="note"), gr.Button(visible=False), ""
            said = message(f"{best.name}, {size(best.size or 0)}", in_words(best), kind="note")
            return said, gr.Button(f"Take {best.name}", visible=True), best.name

        gr.on(
            [self.limit.input, self.limit.release],
            suggest,
            [self.limit, survey],
            [self.best, self.take, self.suggested],
            **quiet,
        )
        self.edited(self.take.click).then(lambda name: [name], self.suggested, self.types, **quiet).then(
            edit, both, edited, **unchecked
        )

        def upload(path: str | None, request: gr.Request) -> Updates:
            if path is None:
                return gr.skip(), gr.skip(), ""
            try:
                name = desk.upload(desk.visitor(request), Path(path), Path(path).name)
            except HubquantError as error:
                return None, gr.skip(), error_message(error)
            return None, name, message(f"{name} is here", kind="good")

        self.edited(self.upload.upload).then(
            upload, self.upload, [self.upload, self.file, self.upload_said], api_visibility="private"
        ).then(edit, both, edited, **unchecked)

        def check(request: gr.Request, text: str, *values: Any) -> str:
            try:
                self._check_agreed(text, values)
                return estimate_card(desk.check(desk.visitor(request), text))
            except HubquantError as error:
                return error_message(error)

        def start(request: gr.Request, text: str, *values: Any) -> Updates:
            try:
                self._check_agreed(text, values)
                made = desk.submit(desk.visitor(request), text)
            except HubquantError as error:
                return error_message(error), gr.skip(), gr.skip()
            return "", made.id, gr.Tabs(selected="run")

        self.check.click(check, both, self.said, api_visibility="private", preprocess=False, concurrency_id="survey")
        self.start.click(
            start,
            both,
            [self.said, job, tabs],
            api_visibility="private",
            preprocess=False,
            trigger_mode="once",
            concurrency_id="survey",
        )


def _as_form(given: dict[str, Any]) -> dict[str, Any]:
    kinds = {field.name: field.type for field in fields(Form)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if kinds[name] == "int":
            values[name] = int(value or 0)
        elif name == "types":
            values[name] = tuple(value or ())
        else:
            values[name] = "" if value is None else value
    return values


def _shown(calibration: str) -> list[Any]:
    return [
        gr.Group(visible=calibration == "dataset"),
        gr.Group(visible=calibration == "file"),
        gr.Group(visible=calibration in ("dataset", "file")),
    ]


def _choices(form: Form, survey: Survey | None, every: bool) -> list[tuple[str, str]]:
    """From the largest to the smallest, with sizes where the model is known; what the recipe names as well."""
    types = offered(survey.types, every=every, chosen=form.types) if survey else []
    labels = {each.name: f"{each.name} · {size(each.size or 0)} · {in_words(each)}" for each in types}
    if not labels:
        labels = {name: name for name in Form().types}
    return [(labels.get(name, name), name) for name in {**labels, **dict.fromkeys(form.types)}]


def _kinds(calibration: str) -> list[tuple[str, str]]:
    return [*CALIBRATIONS, *([("As the recipe says", "recipe")] if calibration == "recipe" else [])]


def _range(survey: Survey | None) -> Any:
    sizes = [each.size for each in offered(survey.types, every=False) if each.size] if survey else []
    if not sizes:
        return gr.skip()
    scale, name = unit(max(sizes))
    low, high = math.floor(min(sizes) / scale * 100) / 100, math.ceil(max(sizes) / scale * 100) / 100
    label = f"The largest file that suits you ({name})"
    return gr.Slider(minimum=low, maximum=high, value=high, step=0.01, label=label)


def _scale(survey: Survey) -> int:
    """Bytes in the unit of the slider."""
    return unit(max(each.size or 0 for each in offered(survey.types, every=False)))[0]
