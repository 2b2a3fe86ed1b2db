"""An importance matrix that is collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubquant.devices import Device
from hubquant.engine.progress import Progress
from hubquant.engine.task import FP32_BYTES, Context, Cost, Task
from hubquant.engine.values import keep_value, read_value
from hubquant.imatrix import merge, save
from hubquant.observe.collector import BATCH_TOKENS, batch_chunks
from hubquant.pipeline.contents import IMATRIX
from hubquant.pipeline.costs import LIBRARIES_BYTES, matrix_bytes, on_device, running_cost
from hubquant.pipeline.held import LoadedModel, Offload, other_device, rate_on
from hubquant.pipeline.imatrix_task import ImatrixTask, left_out
from hubquant.pipeline.offload import output_bytes, scratch_bytes, stream_of, streaming_bytes
from hubquant.pipeline.results import SNAPSHOT, describe
from hubquant.recipe.schema import Imatrix
from hubquant.sources.component import Component
from hubquant.version import __version__

if TYPE_CHECKING:
    import torch

    from hubquant.calibration import Chunks
    from hubquant.evaluate import Perplexity
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.observe import Collection, CollectionRequest, SnapshotPlace

PERPLEXITY = "perplexity.json"
PERPLEXITY_EVERY = 10  # chunks between two notes


@dataclass(frozen=True)
class Saving:
    """Where a matrix is written while it is collected: to ``out`` every ``output_every`` chunks and to files of their
    own beside it every ``save_every``; 0 is never. What is written is added to ``onto``."""

    out: Path
    output_every: int = 0
    save_every: int = 0
    onto: ImportanceMatrix | None = None

    def save(self, matrix: ImportanceMatrix, path: Path) -> None:
        save(matrix if self.onto is None else merge([self.onto, matrix]), path)

    def __bool__(self) -> bool:
        return bool(self.output_every or self.save_every)


@dataclass(frozen=True, eq=False)
class CollectedImatrix(ImatrixTask):
    """Sums over ``chunks``. With ``score`` the text's perplexity is measured too; ``provenance`` goes into the matrix.

    ``is_part`` of a collection that others add to: what this one does not see, they may. ``saving`` changes nothing of
    the result, and ``batch_tokens`` no more than its last bits; blocks that stream see one chunk at a time. Where the
    user asks for none, ``tuned`` tokens run at a time, and what was collected with other ones is as good.
    """

    component: Component
    chunks: Chunks
    settings: Imatrix
    offload: Offload
    score: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)
    is_part: bool = False
    saving: Saving | None = None
    device: Device = "auto"
    batch_tokens: int | None = None
    tuned: int = BATCH_TOKENS

    @property
    def tokens_at_once(self) -> int:
        return self.batch_tokens or self.tuned

    @property
    def _as_usual(self) -> bool:
        return self.batch_tokens in (None, BATCH_TOKENS)

    @property
    def detail(self) -> str:
        return describe(self.chunks) + ("" if self.offload == "none" else f" (offload: {self.offload})")

    @property
    def inputs(self) -> Mapping[str, Task[Any]]:
        return {"weights": self.component.pulled}

    @property
    def made_from(self) -> Mapping[str, Any]:
        return {
            "tokens": self.chunks.fingerprint,
            "datasets": self.chunks.datasets,
            "process_output": self.settings.process_output,
            "score": self.score,
            "provenance": dict(self.provenance),
            "is_part": self.is_part,
            **other_device(self.device),
            **({} if self.offload == "stream" or self._as_usual else {"batch": self.batch_tokens}),
            "hubquant": __version__,
        }

    @property
    def cost(self) -> Cost:
        n_tokens, shapes = self.chunks.n_tokens, self.component.shapes
        disk_bytes = matrix_bytes(shapes[name] for name in self.component.conversion.taps)
        # What accelerate leaves in memory beside a disk is float32.
        weight = FP32_BYTES if self.offload == "disk" else self.component.source.bytes_of_weight
        running = running_cost(
            self.component.n_parameters, n_tokens, disk_bytes=disk_bytes, device=self.device, bytes_of_weight=weight
        )
        if self.offload != "stream":
            if on_device(self.device):
                return replace(running, device_bytes=running.device_bytes + self._logit_bytes)
            return replace(running, ram_bytes=running.ram_bytes + self._logit_bytes)
        scratch = scratch_bytes(self.component, n_tokens)
        return replace(
            running, ram_bytes=LIBRARIES_BYTES + self._streaming_bytes, device_bytes=0, scratch_bytes=scratch
        )

    @property
    def _streaming_bytes(self) -> int:
        """Of the blocks, or of the output layer after them where it is used."""
        blocks = streaming_bytes(self.component, self.chunks.n_tokens)
        return max(blocks, output_bytes(self.component) + self._logit_bytes) if self._logit_bytes else blocks

    @property
    def _logit_bytes(self) -> int:
        """Of a batch: every token's where the output layer is observed, the second halves' where chunks are scored."""
        size = self.chunks.chunk_size
        kept = size if self.settings.process_output else size - size // 2 if self.score else 0
        at_once = 1 if self.offload == "stream" else min(batch_chunks(size, self.tokens_at_once), len(self.chunks))
        return FP32_BYTES * at_once * kept * self.component.n_vocab

    @property
    def rate(self) -> str:
        return rate_on(f"imatrix {self.offload}", self.device)

    @property
    def shares(self) -> LoadedModel | None:
        if self.offload == "stream":
            return None
        return LoadedModel.by(self.component.pulled, self.settings, self.offload, self.device)

    def make(self, folder: Path, context: Context) -> None:
        from hubquant.observe import SnapshotPlace

        keeping = SnapshotPlace(folder / SNAPSHOT, self.key)
        collection = self._collect(keeping, context)
        save(self._finish(collection, context.progress), folder / IMATRIX)
        if self.score:
            keep_value(folder / PERPLEXITY, _perplexity(collection))
        keeping.path.unlink(missing_ok=True)

    def perplexity(self, folder: Path) -> Perplexity:
        """Of the text, where it was measured."""
        from hubquant.evaluate import Perplexity

        return read_value(folder / PERPLEXITY, Perplexity)

    def _collect(self, keeping: SnapshotPlace, context: Context) -> Collection:
        from hubquant.observe import OUTPUT, CollectionRequest

        source, taps, progress = context.read(self.component.pulled), self.component.conversion.taps, context.progress
        if self.settings.process_output and OUTPUT not in taps:
            progress.note("the output layer is the token embedding, of which llama-imatrix has no entry either")
        facts = {"model": source.full_name, "model_identity": source.identity["model"], **self.provenance}
        return self._run(
            keeping, CollectionRequest(self.settings.process_output, score if self.score else None, facts), context
        )

    def _run(self, keeping: SnapshotPlace, wanted: CollectionRequest, context: Context) -> Collection:
        from hubquant.observe import collect
        from hubquant.observe.streamed import collect_streamed

        source, taps, progress = context.read(self.component.pulled), self.component.conversion.taps, context.progress
        if self.offload == "stream":
            weights, n_tokens = source.open_weights(self.device), self.chunks.n_tokens
            stream = stream_of(weights, self.component, n_tokens, keeping.path.parent, self.device)
            with progress.bar("imatrix", len(self.chunks) * stream.n_blocks, "layers") as advance:
                return collect_streamed(stream, self.chunks, taps, wanted, keeping=keeping, advance=advance)
        with progress.bar("imatrix", len(self.chunks), "chunks") as advance:
            return collect(
                context.held,
                self.chunks,
                taps,
                wanted,
                keeping=keeping,
                batch_tokens=self.tokens_at_once,
                advance=advance,
                watch=self._watch(progress),
            )

    def _watch(self, progress: Progress) -> Callable[[Collection], None]:
        """What is told and written of the collection so far."""
        return _Watch(self.saving, progress)

    def _finish(self, collection: Collection, progress: Progress) -> ImportanceMatrix:
        """With estimates where nothing was seen; what is wrong with it is told."""
        from hubquant.imatrix.coverage import coverage, with_estimates

        matrix, shapes = collection.matrix(), self.component.shapes
        if collection.skipped:
            progress.note(left_out(collection.skipped, "chunk"))
        if self.is_part:
            return matrix
        for note in coverage(matrix, collection.taps).notes():
            progress.note(note)
        return with_estimates(matrix, {name: shapes[name] for name in collection.taps})


class _Watch:
    """Tells the perplexity so far and writes the matrix so far, every so many chunks."""

    def __init__(self, saving: Saving | None, progress: Progress) -> None:
        self._saving, self._progress = saving, progress
        self._done: int | None = None

    def __call__(self, collection: Collection) -> None:
        passed = self._passed(collection.done)
        if collection.nll and passed(PERPLEXITY_EVERY):
            self._progress.note(f"perplexity after {collection.done} chunks: {_perplexity(collection)}")
        if self._saving is not None:
            out = self._saving.out
            if passed(self._saving.output_every):
                self._saving.save(collection.matrix(), out)
            if passed(self._saving.save_every):
                self._saving.save(collection.matrix(), out.with_name(f"{out.name}.at_{collection.done}"))
        self._done = collection.done

    def _passed(self, done: int) -> Callable[[int], bool]:
        """Whether a multiple of a number was reached since the last batch."""
        before = self._done if self._done is not None else max(0, done - 1)
        return lambda every: every > 0 and done // every > before // every


def _perplexity(collection: Collection) -> Perplexity:
    import torch

    from hubquant.evaluate import Perplexity

    return Perplexity.of(torch.cat(collection.nll))


def score(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    from hubquant.evaluate.likelihood import negative_log_likelihood
    from hubquant.evaluate.scoring import n_scored, scored_targets

    return negative_log_likelihood(logits[-n_scored(len(ids)) - 1 : -1], scored_targets(ids))
