"""Models larger than memory against their files: of neither is more than a block in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.devices import Device
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.evaluate.scoring import n_scored
from hubquant.evaluate.snapshot import FinishedChunks
from hubquant.gguf_file import GGUFFile
from hubquant.pipeline.costs import LIBRARIES_BYTES, LOGIT_COPIES, REPORT_BYTES, evaluating_cost
from hubquant.pipeline.evaluate import FileDivergence
from hubquant.pipeline.held import LoadedModel, other_device, rate_on
from hubquant.pipeline.offload import hidden_bytes, output_bytes, scratch_bytes, stream_of, streaming_bytes
from hubquant.pipeline.results import REPORT, SNAPSHOT, describe
from hubquant.pipeline.without_code import RunInLlamaCpp
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    from hubquant.calibration import Chunks
    from hubquant.evaluate import Divergence
    from hubquant.evaluate.runner import Runner

OUTPUTS = "last-block.safetensors"
FINISHED = "finished"


@dataclass(frozen=True, eq=False)
class LastBlock(Task[Path]):
    """What the last block of ``component`` gives for each of ``chunks``."""

    kind = "last-block"

    component: Component
    chunks: Chunks
    device: Device = "auto"

    @property
    def step(self) -> str:
        return "baseline"

    @property
    def detail(self) -> str:
        return f"{describe(self.chunks)} (streamed)"

    @property
    def label(self) -> str:
        return "baseline"

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {"tokens": self.chunks.fingerprint, "hubquant": __version__, **other_device(self.device)}

    @property
    def cost(self) -> Cost:
        running = streamed_cost(self.component, self.chunks)
        return replace(running, disk_bytes=hidden_bytes(self.component, self.chunks.n_tokens))

    @property
    def rate(self) -> str:
        return rate_on(f"{self.step} streamed", self.device)

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.evaluate.streamed import keep_last_outputs
        from hubquant.models.snapshot import KeptState

        weights = context.read(self.component.pulled).open_weights(self.device)
        stream = stream_of(weights, self.component, self.chunks.n_tokens, folder, self.device)
        with context.progress.bar("baseline", len(self.chunks) * stream.n_blocks, "layers") as advance:
            keep_last_outputs(stream, self.chunks, KeptState(folder / OUTPUTS, self.key), advance)

    def read(self, folder: Path) -> Path:
        return folder / OUTPUTS


@contextmanager
def predictions(model: LoadedModel | LastBlock | RunInLlamaCpp, folder: Path, context: Context) -> Iterator[Runner]:
    """What runs a model: all of it, in llama.cpp too, or on the chunks of a ``LastBlock`` what comes after that;
    ``folder`` is for what does not fit in memory."""
    from hubquant.evaluate.streamed import predicting
    from hubquant.models.language_model import LanguageModel

    if isinstance(model, LoadedModel):
        yield LanguageModel(context.held)
        return
    if isinstance(model, RunInLlamaCpp):
        with model.open(context) as runner:
            yield runner
        return
    weights = context.read(model.component.pulled).open_weights(model.device)
    stream = stream_of(weights, model.component, model.chunks.n_tokens, folder, model.device)
    with predicting(stream, context.read(model), model.chunks.ids) as runner:
        yield runner


def predicting_cost(
    model: LoadedModel | LastBlock | RunInLlamaCpp, component: Component, chunks: Chunks, disk_bytes: int = 0
) -> Cost:
    """Of looking at what ``model``, which is the ``component``'s, predicts for ``chunks``."""
    if isinstance(model, LoadedModel):
        return evaluating_cost(component, chunks, disk_bytes, model.device, component.source.bytes_of_weight)
    if isinstance(model, RunInLlamaCpp):
        return model.cost(chunks, disk_bytes)
    logits = FP32_BYTES * LOGIT_COPIES * chunks.chunk_size * component.n_vocab
    return Cost(
        ram_bytes=LIBRARIES_BYTES + output_bytes(component) + logits,
        disk_bytes=disk_bytes,
        scratch_bytes=scratch_bytes(component, 0),
        work=float(component.width * component.n_vocab) * chunks.n_tokens,
    )


def predicting_inputs(model: LoadedModel | LastBlock | RunInLlamaCpp, component: Component) -> dict[str, Task[Any]]:
    """The weights, and what their last block gave where they are streamed, or the file that llama.cpp runs."""
    last: dict[str, Task[Any]] = {"outputs": model} if isinstance(model, LastBlock) else {}
    if isinstance(model, RunInLlamaCpp):
        last = {"file": model.file}
    return {"weights": component.pulled, **last}


@dataclass(frozen=True, eq=False)
class StreamedEvaluation(FileDivergence):
    """KL divergence and perplexity of ``file`` on the text of ``baseline``. ``texts`` name the text of each chunk where
    several have a name. Beside the result stands the report of all tokens."""

    file: Task[Path]
    baseline: LastBlock
    name: str
    texts: tuple[str, ...] = ()

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.baseline.component.pulled, "file": self.file, "baseline": self.baseline}

    @property
    def made_from(self) -> Mapping[str, Any]:
        texts = {"texts": self.texts} if self.texts else {}
        return {"way": "streamed", "hubquant": __version__, **texts, **other_device(self.baseline.device)}

    @property
    def cost(self) -> Cost:
        """That the file is of the model or of a part of it is what is known before."""
        chunks = self.baseline.chunks
        return replace(streamed_cost(self.baseline.component, chunks), disk_bytes=REPORT_BYTES * chunks.n_tokens)

    @property
    def rate(self) -> str:
        return rate_on(f"{self.kind} streamed", self.baseline.device)

    def measure(self, folder: Path, context: Context) -> Divergence:
        from hubquant.convert.blocks import open_file
        from hubquant.evaluate.comparison import FIELDS
        from hubquant.evaluate.streamed import compare_streamed
        from hubquant.models.snapshot import KeptState

        component, chunks, device = self.baseline.component, self.baseline.chunks, self.baseline.device
        weights = (
            open_file(GGUFFile.open(context.read(self.file)), device),
            context.read(component.pulled).open_weights(device),
        )
        stream, source = (stream_of(each, component, chunks.n_tokens, folder, device) for each in weights)
        kept = KeptState(folder / SNAPSHOT, self.key)
        records = len(FIELDS) * n_scored(chunks.chunk_size)
        finished = FinishedChunks(folder / FINISHED, bytes.fromhex(self.key), records)
        outputs = context.read(self.baseline)
        try:
            with context.progress.bar(self.name, len(chunks) * (stream.n_blocks + 1), "layers") as advance:
                divergence = compare_streamed(
                    stream,
                    source,
                    outputs,
                    chunks,
                    kept,
                    finished,
                    texts=self.texts,
                    report=folder / REPORT,
                    advance=advance,
                )
        finally:
            finished.close()
        for name in (SNAPSHOT, FINISHED):
            (folder / name).unlink(missing_ok=True)
        return divergence


def streamed_cost(component: Component, chunks: Chunks) -> Cost:
    """Of passing a component's blocks, or those of a file of it: in the end the output layers of both and the logits of
    a chunk take their place."""
    last = FP32_BYTES * LOGIT_COPIES * n_scored(chunks.chunk_size) * component.n_vocab + 2 * output_bytes(component)
    return Cost(
        ram_bytes=LIBRARIES_BYTES + max(streaming_bytes(component, chunks.n_tokens), last),
        scratch_bytes=scratch_bytes(component, chunks.n_tokens),
        work=float(component.n_parameters) * chunks.n_tokens,
    )
