"""``hubquant evaluate``: baselines, perplexity and scores of single models and files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubquant.commands.flags import Text
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context
from hubquant.errors import UserError
from hubquant.evaluate.forms import LLAMA_CPP_SUFFIX, form_of
from hubquant.pipeline.baseline import BaselineTask, PerplexityTask
from hubquant.pipeline.held import LoadedModel
from hubquant.pipeline.offload import WayOrAuto, choose_way
from hubquant.pipeline.scores import Questions, ScoreTask
from hubquant.pipeline.streamed import LastBlock
from hubquant.pipeline.work import open_model
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Accuracy, Joined, Perplexity
    from hubquant.evaluate.choice_files import Test

_LESS_MEMORY = "leave --way out: then the weights are streamed"


def baseline(
    model: str,
    text: Text,
    out: Path,
    store: Store,
    progress: Progress,
    device: Device = "auto",
    *,
    full: bool = False,
    way: WayOrAuto = "auto",
) -> Job[Path]:
    """The source model's next-token distributions, in ``out``; whole ones if they are asked for. A model that does not
    fit in memory is streamed."""
    check_target(out, "baseline")
    component = open_model(reference(model), None, progress)
    component.check_predicts("running")
    with progress.doing("tokenizing"):
        chunks = text.tokenize(component)
    form = form_of(out, component.n_vocab, full=full)
    task = BaselineTask(component, chunks, _running(component, chunks, way, device), form, text.first_chunk + 1)

    def deliver(context: Context) -> Path:
        put(context.read(task), out, store)
        return out

    return plan_job([task], deliver, store, outputs=[out], placed_bytes=task.cost.disk_bytes, less_memory=_LESS_MEMORY)


def join(parts: Sequence[Path], out: Path, progress: Progress) -> Joined:
    """One baseline of those of several parts of a text. Raises ``UserError`` for names that contradict each other, and
    as :func:`hubquant.evaluate.join_baselines`."""
    from hubquant.evaluate import Baseline, join_baselines

    if len(parts) < 2:
        raise UserError("a single part is not joined", hint="name two or more baselines")
    check_target(out, "baseline")
    for part in parts:
        if out.exists() and part.exists() and out.samefile(part):
            raise UserError(
                f"{out} would be written over", why="it is one of the parts", hint="give --out another name"
            )
    with Baseline.open(parts[0]) as first:
        form = first.form
    if (out.suffix == LLAMA_CPP_SUFFIX) != (form == "llama.cpp"):
        hint = f"name {out.with_suffix(LLAMA_CPP_SUFFIX if form == 'llama.cpp' else '.h5')} with -o"
        raise UserError(f"{out} is no name for a baseline of this form", why=f"the parts are {form}", hint=hint)
    with progress.bar("join", sum(part.stat().st_size for part in parts if part.is_file()), "B") as advance:
        return join_baselines(parts, out, advance)


def perplexity(
    model: str,
    text: Text,
    store: Store,
    progress: Progress,
    device: Device = "auto",
    stride: int | None = None,
    way: WayOrAuto = "auto",
) -> Job[Perplexity]:
    """Of a checkpoint or a GGUF file; the file's own tokenizer cuts the text. One that does not fit in memory is
    streamed."""
    if stride is not None:
        text.check_stride(stride)
    component = open_model(reference(model), None, progress)
    component.check_predicts("running")
    with progress.doing("tokenizing"):
        chunks = text.tokenize(component) if stride is None else text.windows(component.source.tokenizer(), stride)
    task = PerplexityTask(component, chunks, _running(component, chunks, way, device), stride)
    return plan_job([task], lambda context: context.read(task), store, less_memory=_LESS_MEMORY)


def _running(component: Component, chunks: Chunks, way: WayOrAuto, device: Device) -> LoadedModel | LastBlock:
    if choose_way(way, component, device, component.source.bytes_of_weight) == "streamed":
        return LastBlock(component, chunks, device)
    return LoadedModel(component.pulled, spread=True, device=device)


@dataclass(frozen=True)
class Asked:
    """Which questions are asked: of ``text``, a file or data set, or of what is usual for the test; ``tasks`` of them,
    chosen by ``seed``, or all."""

    text: str | None = None
    config: str | None = None
    split: str | None = None
    tasks: int | None = None
    seed: int = 1


def score(
    model: str, test: Test, asked: Asked, store: Store, progress: Progress, device: Device = "auto"
) -> Job[Accuracy]:
    """Of a checkpoint or a GGUF file. Raises ``UserError`` for what are no questions of the test."""
    from hubquant.calibration.tokens import encode
    from hubquant.evaluate.choice_files import FORMATS, question_source, read_questions
    from hubquant.evaluate.selection import select

    source = question_source(test, asked.text, asked.config, asked.split)
    component = open_model(reference(model), None, progress)
    component.check_predicts("running")
    with progress.doing(f"reading {source.display_name}"):
        texts = read_questions(test, source)
    if asked.tasks is not None:
        texts = select(texts, asked.tasks, asked.seed, FORMATS[test].drawing)
    with progress.doing("tokenizing"):
        tokenizer = component.source.tokenizer()
        items = tuple(text.tokenize(lambda part: encode(tokenizer, part, special=False)) for text in texts)
    task = ScoreTask(
        component,
        Questions(test, source.display_name, items),
        LoadedModel(component.pulled, spread=True, device=device),
    )
    hint = f"scores need the whole model; what streams is: hubquant evaluate ppl {shlex.quote(model)}"
    return plan_job([task], lambda context: context.read(task), store, less_memory=hint)
