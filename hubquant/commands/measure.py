"""``hubquant evaluate``: baselines, divergence and perplexity of single models and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.commands.flags import Text
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.devices import Device
from hubquant.disk import write_at_once
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context, Found, Task
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.baseline import BaselineTask, PerplexityTask
from hubquant.pipeline.costs import REPORT_BYTES, running_cost
from hubquant.pipeline.evaluate import Evaluation
from hubquant.pipeline.held import LoadedModel
from hubquant.pipeline.results import REPORT
from hubquant.pipeline.scores import Questions, ScoreTask
from hubquant.pipeline.work import open_model

if TYPE_CHECKING:
    from hubquant.evaluate import Accuracy, Divergence, Perplexity
    from hubquant.evaluate.choice_files import Test


@dataclass(frozen=True, eq=False)
class FileOfUser(Found[Path]):
    """``states`` are the size and the time of change of each of its parts, as ``make`` looks at them."""

    path: Path
    states: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, path: Path, *parts: Path) -> FileOfUser:
        """``parts`` are all shards, where there are several."""
        found = [(part.resolve(), part.stat()) for part in parts or (path,)]
        return cls(path, tuple((str(part), status.st_size, status.st_mtime_ns) for part, status in found))

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"states": self.states}

    def is_there(self) -> bool:
        return True

    def read(self, folder: Path) -> Path:  # noqa: ARG002
        return self.path


def baseline(model: str, text: Text, out: Path, store: Store, progress: Progress, device: Device = "auto") -> Job[Path]:
    """The source model's next-token distributions, in ``out``."""
    check_target(out, "baseline")
    component = open_model(reference(model), None, progress)
    component.check_runs("running")
    with progress.doing("tokenizing"):
        chunks = text.tokenize(component.source.tokenizer())
    task = BaselineTask(component, chunks, LoadedModel(component.pulled, spread=True, device=device))

    def deliver(context: Context) -> Path:
        put(context.read(task), out, store)
        return out

    return plan_job([task], deliver, store, outputs=[out], placed_bytes=task.cost.disk_bytes)


@dataclass(frozen=True)
class Shown:
    """Where else a divergence goes: ``report`` is an HDF5 file, ``plots`` a folder of pictures."""

    report: Path | None = None
    plots: Path | None = None

    def check(self) -> None:
        """Raises ``OutputError`` for what would replace something else."""
        for path in self.paths:
            check_target(path, "report" if path == self.report else "picture")

    @property
    def paths(self) -> list[Path]:
        from hubquant.publish.token_plots import BY_CHUNK, DISTRIBUTION

        pictures = [self.plots / name for name in (DISTRIBUTION, BY_CHUNK)] if self.plots else []
        return [*([self.report] if self.report else []), *pictures]

    def deliver(self, task: Evaluation, context: Context) -> Divergence:
        from hubquant.evaluate.report_file import open_report
        from hubquant.publish.token_plots import BY_CHUNK, DISTRIBUTION, plot_by_chunk, plot_distribution

        found, report = context.read(task), context.store.path(task) / REPORT
        if self.report:
            put(report, self.report, context.store)
        if self.plots:
            with open_report(report) as opened:
                distribution = plot_distribution(opened, found, task.name)
                by_chunk = plot_by_chunk(found, opened.texts, opened.text.tolist(), task.name)
            write_at_once(self.plots / DISTRIBUTION, distribution)
            write_at_once(self.plots / BY_CHUNK, by_chunk)
        return found


def divergence(
    file: Path, baseline: Path, store: Store, device: Device = "auto", shown: Shown | None = None
) -> Job[Divergence]:
    """How far a GGUF file is from a stored baseline."""
    from hubquant.evaluate import Baseline

    shown = shown or Shown()
    shown.check()
    gguf = GGUFFile.open(file)  # first, so that a mistyped file is told before anything else is read
    with Baseline.open(baseline) as stored:
        n_tokens, logits = stored.ids.numel(), stored.ids.shape[1] * stored.n_vocab
    task = _evaluation(file, gguf, FileOfUser.of(baseline), n_tokens, logits, device)
    return _job(task, shown, store)


def divergence_from(
    file: Path,
    model: str,
    text: Text,
    store: Store,
    progress: Progress,
    device: Device = "auto",
    shown: Shown | None = None,
) -> Job[Divergence]:
    """How far a GGUF file is from ``model``, whose distributions on ``text`` are kept in the store."""
    shown = shown or Shown()
    shown.check()
    gguf = GGUFFile.open(file)
    component = open_model(reference(model), None, progress)
    component.check_runs("running")
    with progress.doing("tokenizing"):
        chunks = text.tokenize(component.source.tokenizer())
    baseline = BaselineTask(component, chunks, LoadedModel(component.pulled, spread=True, device=device))
    task = _evaluation(file, gguf, baseline, chunks.ids.numel(), chunks.chunk_size * component.n_vocab, device)
    return _job(task, shown, store)


def perplexity(
    model: str, text: Text, store: Store, progress: Progress, device: Device = "auto", stride: int | None = None
) -> Job[Perplexity]:
    """Of a checkpoint or a GGUF file; the file's own tokenizer cuts the text."""
    if stride is not None:
        text.check_stride(stride)
    component = open_model(reference(model), None, progress)
    component.check_runs("running")
    with progress.doing("tokenizing"):
        tokenizer = component.source.tokenizer()
        chunks = text.tokenize(tokenizer) if stride is None else text.windows(tokenizer, stride)
    task = PerplexityTask(component, chunks, LoadedModel(component.pulled, spread=True, device=device), stride)
    return plan_job([task], lambda context: context.read(task), store)


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
    component.check_runs("running")
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
    return plan_job([task], lambda context: context.read(task), store)


def _job(task: Evaluation, shown: Shown, store: Store) -> Job[Divergence]:
    placed = task.cost.disk_bytes
    return plan_job(
        [task], lambda context: shown.deliver(task, context), store, outputs=shown.paths, placed_bytes=placed
    )


def _evaluation(
    file: Path, gguf: GGUFFile, baseline: Task[Path], n_tokens: int, logits: int, device: Device
) -> Evaluation:
    """Of ``file``, opened as ``gguf``; ``logits`` are those of one chunk."""
    n_weights = sum(tensor.n_elements for tensor in gguf.tensors.values())
    cost = running_cost(n_weights, n_tokens, logits, REPORT_BYTES * n_tokens, device)
    return Evaluation(FileOfUser.of(file, *gguf.paths), baseline, file.name, cost, device)
