"""``hubquant evaluate run``: how far files are from their source model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hubquant.commands.flags import Text
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job, plan_job, put
from hubquant.commands.targets import check_target
from hubquant.devices import Device
from hubquant.disk import user_path, write_at_once
from hubquant.engine.progress import Progress
from hubquant.engine.store import Store
from hubquant.engine.task import Context, Cost, Found
from hubquant.errors import UserError
from hubquant.evaluate.forms import LLAMA_CPP_SUFFIX
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.baseline import BaselineTask
from hubquant.pipeline.costs import REPORT_BYTES, evaluating_cost, running_cost
from hubquant.pipeline.embeddings import EmbeddingEvaluation, EmbeddingsTask
from hubquant.pipeline.encoders import check_texts
from hubquant.pipeline.evaluate import Evaluation
from hubquant.pipeline.held import LoadedModel
from hubquant.pipeline.in_llamacpp import EngineDifference, EvaluationInLlamaCpp, check_installed
from hubquant.pipeline.offload import WayOrAuto, choose_way
from hubquant.pipeline.results import REPORT
from hubquant.pipeline.streamed import LastBlock, StreamedEvaluation
from hubquant.pipeline.work import open_model
from hubquant.sources.component import Component

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Divergence, Precision, Similarity

Tasks = Sequence[Evaluation] | Sequence[StreamedEvaluation] | Sequence[EmbeddingEvaluation]
Engine = Literal["torch", "llamacpp", "both"]


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


@dataclass(frozen=True)
class Shown:
    """Where else a divergence goes: ``report`` is an HDF5 file, ``plots`` a folder of pictures."""

    report: Path | None = None
    plots: Path | None = None

    def check(self, files: Sequence[Path]) -> None:
        """Raises ``OutputError`` for what would replace something else, and ``UserError`` where it would be of several
        ``files``."""
        if len(files) > 1 and self.paths:
            option = "--out" if self.report else "--plot"
            raise UserError(f"{option} is of one file, and there are {len(files)}", hint=f"measure one with {option}")
        for path in self.paths:
            check_target(path, "report" if path == self.report else "picture")

    @property
    def paths(self) -> list[Path]:
        from hubquant.publish.token_plots import BY_CHUNK, DISTRIBUTION

        pictures = [self.plots / name for name in (DISTRIBUTION, BY_CHUNK)] if self.plots else []
        return [*([self.report] if self.report else []), *pictures]

    def deliver(
        self, task: Evaluation | StreamedEvaluation | EmbeddingEvaluation, context: Context
    ) -> Divergence | Similarity:
        if isinstance(task, EmbeddingEvaluation):
            return context.read(task)
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


@dataclass(frozen=True)
class Baseline:
    """What files are compared with: a stored baseline, or a model that is run on ``text`` in some ``way``; by which
    ``engine`` they are run, and ``until`` which precision."""

    name: str
    text: Text
    way: WayOrAuto = "auto"
    device: Device = "auto"
    engine: Engine = "torch"
    until: Precision | None = None

    @property
    def is_stored(self) -> bool:
        path = user_path(self.name)
        return path.suffix in (".h5", LLAMA_CPP_SUFFIX) or (path.is_file() and path.suffix != ".gguf")


def divergences(
    files: Sequence[Path], baseline: Baseline, store: Store, progress: Progress, shown: Shown | None = None
) -> Job[list[Divergence | Similarity]]:
    """How far GGUF files are from ``baseline``, or of encoders how alike they embed; what a model predicts is kept in
    the store. Of both engines there are three for each file: by its weights, in llama.cpp, and between the two.

    Raises ``UserError`` for a file that is of another model.
    """
    shown = shown or Shown()
    shown.check(files)
    if baseline.engine == "both" and shown.paths:
        raise UserError("--out and --plot are of one engine", hint="measure once more with --engine torch or llamacpp")
    opened = [(file, GGUFFile.open(file)) for file in files]  # first, so that a mistyped file is told before all else
    tasks = _by_stored(opened, baseline) if baseline.is_stored else _by_model(opened, baseline, shown, progress)
    return plan_job(
        tasks,
        lambda context: [shown.deliver(task, context) for task in tasks],
        store,
        outputs=shown.paths,
        placed_bytes=sum(task.cost.disk_bytes for task in tasks),
        less_memory="name the model as the baseline, and leave --way out: then the weights are streamed",
    )


def _by_stored(opened: Sequence[tuple[Path, GGUFFile]], baseline: Baseline) -> Tasks:
    from hubquant.evaluate import Baseline as Stored
    from hubquant.evaluate.fitting import check_fits

    path = Path(baseline.name)
    with Stored.open(path) as stored:
        for file, gguf in opened:
            embedding = gguf.tensors.get("token_embd.weight")
            check_fits(stored, gguf.metadata, None if embedding is None else embedding.shape[0], file.name)
        n_chunks, n_tokens, logits = stored.n_chunks, stored.ids.numel(), stored.ids.shape[1] * stored.n_vocab
    base = FileOfUser.of(path)

    def task(file: Path, gguf: GGUFFile) -> Evaluation:
        n_weights = sum(tensor.n_elements for tensor in gguf.tensors.values())
        cost = running_cost(n_weights, n_tokens, logits, REPORT_BYTES * n_tokens, baseline.device)
        return Evaluation(
            FileOfUser.of(file, *gguf.paths), base, file.name, cost, baseline.device, until=baseline.until
        )

    return _by_engine([task(*each) for each in opened], baseline.engine, n_chunks)


def _by_model(opened: Sequence[tuple[Path, GGUFFile]], baseline: Baseline, shown: Shown, progress: Progress) -> Tasks:
    component = open_model(reference(baseline.name), None, progress)
    component.check_runs("running")
    if component.embeds:
        _check_encoder(baseline, shown, component)
    for each in opened:
        _check_vocabulary(*each, component)
    with progress.doing("tokenizing"):
        chunks = baseline.text.tokenize(component)
    device = baseline.device
    files = [(FileOfUser.of(file, *gguf.paths), file.name) for file, gguf in opened]
    if component.embeds:
        check_texts(chunks)
        loaded = LoadedModel(component.pulled, spread=True, device=device)
        source = EmbeddingsTask(component, chunks, loaded)
        return [EmbeddingEvaluation(file, source, name, device) for file, name in files]
    if choose_way(baseline.way, component, device) == "streamed":
        last = LastBlock(component, chunks, device)
        if baseline.engine == "llamacpp":
            stored = BaselineTask(component, chunks, last)
            sizes = [sum(path.stat().st_size for path in gguf.paths) for _, gguf in opened]
            evaluations = [
                Evaluation(file, stored, name, _mapped_cost(component, chunks, size), device, until=baseline.until)
                for (file, name), size in zip(files, sizes, strict=True)
            ]
            return _by_engine(evaluations, "llamacpp", len(chunks))
        _check_streamed(baseline)
        return [StreamedEvaluation(file, last, name) for file, name in files]
    base = BaselineTask(component, chunks, LoadedModel(component.pulled, spread=True, device=device))
    cost = evaluating_cost(component, chunks, REPORT_BYTES * chunks.n_tokens, device)
    return _by_engine(
        [Evaluation(file, base, name, cost, device, until=baseline.until) for file, name in files],
        baseline.engine,
        len(chunks),
    )


def _check_streamed(baseline: Baseline) -> None:
    """Raises ``UserError`` for what cannot be asked of files that are streamed."""
    if baseline.until:
        raise UserError(
            "files that are streamed are measured on all chunks",
            why="all chunks pass each block while it is in memory: fewer of them would save no reading",
            hint="leave --margin out and name fewer --chunks, or measure the files in llama.cpp: --engine llamacpp",
        )
    if baseline.engine == "both":
        raise UserError(
            "--engine both needs the file as a whole, in floats",
            why="the predictions of both engines are compared chunk by chunk, and the file is streamed",
            hint="write --engine llamacpp, or leave it out",
        )


def _mapped_cost(component: Component, chunks: Chunks, file_bytes: int) -> Cost:
    """Of llama.cpp, which maps a file as it is."""
    per_weight = file_bytes / component.n_parameters
    return evaluating_cost(component, chunks, REPORT_BYTES * chunks.n_tokens, "cpu", per_weight)


def _check_encoder(baseline: Baseline, shown: Shown, component: Component) -> None:
    """Raises ``UserError`` for what is asked of a language model's predictions."""
    asked = {
        "--way streamed": baseline.way == "streamed",
        f"--engine {baseline.engine}": baseline.engine != "torch",
        "--margin": baseline.until is not None,
        "--out": shown.report is not None,
        "--plot": shown.plots is not None,
    }
    if wrong := next((option for option, is_asked in asked.items() if is_asked), None):
        raise UserError(
            f"{wrong} is not for {component.conversion.architecture} models",
            why="an encoder predicts no next token: its embeddings are compared, by transformers",
            hint=f"leave {wrong.split()[0]} out",
        )


def _by_engine(tasks: Sequence[Evaluation], engine: Engine, n_chunks: int) -> Sequence[Evaluation]:
    """By transformers, by llama.cpp, or by both and their difference, file by file."""
    if engine == "torch":
        return tasks
    check_installed()
    if engine == "llamacpp":
        return [EvaluationInLlamaCpp.beside(task, n_chunks) for task in tasks]
    return [
        each
        for task in tasks
        for each in (task, EvaluationInLlamaCpp.beside(task, n_chunks), EngineDifference.of(task))
    ]


def _check_vocabulary(file: Path, gguf: GGUFFile, component: Component) -> None:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is not None and embedding.shape[0] != component.n_vocab:
        raise UserError(
            f"{file.name} has a vocabulary of {embedding.shape[0]}, {component.source.name} one of {component.n_vocab}",
            why="they belong to different models",
            hint="name the model that the file was made from",
        )
