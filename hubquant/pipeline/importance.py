"""Collect an importance matrix in the memory that there is."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubquant.checkpoint.checkpoint import Checkpoint
from hubquant.convert.conversion import Conversion
from hubquant.engine.progress import Progress
from hubquant.errors import ImatrixError
from hubquant.models.taps.tap import Tap
from hubquant.pipeline.costs import FP32_BYTES, device_memory_bytes, memory_bytes
from hubquant.recipe.schema import Imatrix
from hubquant.sources.source import SourceModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hubquant.calibration import Chunks
    from hubquant.imatrix import ImportanceMatrix
    from hubquant.models.load import Placement
    from hubquant.models.stream import Keep
    from hubquant.models.streamed_weights import StreamedWeights
    from hubquant.observe import Collection, Keeping
    from hubquant.observe.collection import Score

Way = Literal["none", "cpu", "disk", "stream"]
Shapes = Mapping[str, tuple[int, ...]]

SPILLED_SHARE = 4  # hidden states of more than a quarter of the memory wait in files


@dataclass(frozen=True)
class Observable:
    """A model to collect from: ``shapes`` of its GGUF weights, ``taps`` into it, and two ways to its weights.

    ``identity`` is the same wherever the model is. ``stream`` is None where the weights cannot be read block by block.
    """

    name: str
    identity: str
    shapes: Shapes
    taps: Mapping[str, Tap]
    load: Callable[[Placement], PreTrainedModel]
    stream: Callable[[], StreamedWeights] | None


def observe_source(source: SourceModel, conversion: Conversion) -> Observable:
    """A source whose weights are on disk."""
    return Observable(
        source.full_name,
        source.identity["model"],
        conversion.shapes,
        conversion.taps,
        source.load,
        (lambda: open_weights(source.checkpoint)) if source.can_stream else None,
    )


def choose_way(settings: Imatrix, shapes: Shapes, *, can_stream: bool) -> Way:
    """How the model is run: as the settings say, or by whether its weights leave a fifth of the memory free.

    Raises ``ImatrixError`` when a GGUF file, which cannot be streamed, is to be offloaded.
    """
    if settings.offload not in ("auto", "none") and not can_stream:
        raise ImatrixError(
            "a GGUF file cannot be offloaded",
            why="its weights are read back into transformers' model as a whole",
            hint="collect from the checkpoint, or leave imatrix.offload out",
        )
    if settings.offload != "auto":
        return settings.offload
    n_parameters = sum(math.prod(shape) for shape in shapes.values())
    fits = bytes_of_weight() * n_parameters <= 0.8 * (memory_bytes() + device_memory_bytes())
    return "none" if fits or not can_stream else "stream"


def bytes_of_weight() -> int:
    """Weights are float32 on a CPU, and mostly in half precision on a GPU."""
    from hubquant.devices import default_device

    return FP32_BYTES if default_device() == "cpu" else FP32_BYTES // 2


def streaming_bytes(shapes: Shapes, n_tokens: int) -> int:
    """Memory that streaming takes: a block in float32, the next as it is stored, and the hidden states in memory."""
    blocks: dict[str, int] = {}
    for name, shape in shapes.items():
        if name.startswith("blk."):
            number = name.split(".")[1]
            blocks[number] = blocks.get(number, 0) + math.prod(shape)
    return 2 * FP32_BYTES * max(blocks.values(), default=0) + min(
        hidden_bytes(shapes, n_tokens), memory_bytes() // SPILLED_SHARE
    )


def hidden_bytes(shapes: Shapes, n_tokens: int) -> int:
    return FP32_BYTES * n_tokens * shapes["token_embd.weight"][1]


def open_weights(checkpoint: Checkpoint) -> StreamedWeights:
    """A checkpoint on disk, to be read block by block."""
    from hubquant.convert.config import read_architecture
    from hubquant.convert.plain import plain_checkpoint
    from hubquant.devices import default_device
    from hubquant.models.streamed_weights import StreamedWeights

    plain = plain_checkpoint(checkpoint)
    architecture, config = read_architecture(plain.config)
    tables = architecture.token_tables(config)
    return StreamedWeights(plain, config, architecture.blocks, str(architecture.output), tables, default_device())


def collect(
    observable: Observable,
    chunks: Chunks,
    settings: Imatrix,
    way: Way,
    keeping: Keeping,
    progress: Progress,
    *,
    score: Score | None = None,
    provenance: Mapping[str, str] | None = None,
    watch: Callable[[Collection], None] = lambda _: None,
    model: PreTrainedModel | None = None,
) -> Collection:
    """Run the model over ``chunks`` in the ``way`` that was chosen; goes on from what ``keeping`` kept.

    ``watch`` is shown the collection after every batch, unless the model is streamed. ``model`` is the loaded model, if
    it is.
    """
    from hubquant.observe import OUTPUT, Wanted
    from hubquant.observe import collect as collect_loaded
    from hubquant.observe.streamed import collect_streamed

    if settings.process_output and OUTPUT not in observable.taps:
        progress.note("the output layer is the token embedding, of which llama-imatrix has no entry either")
    facts = {"model": observable.name, "model_identity": observable.identity, **(provenance or {})}
    wanted = Wanted(settings.process_output, score, facts)
    folder = keeping.path.parent
    if way == "stream" and observable.stream is not None:
        from hubquant.models.stream import BlockStream

        stream = BlockStream(observable.stream(), _room(observable.shapes, chunks.n_tokens, folder))
        with progress.bar("imatrix", len(chunks) * stream.n_blocks, "layers") as advance:
            return collect_streamed(stream, chunks, observable.taps, wanted, keeping=keeping, advance=advance)
    with _placement(way, settings, folder) as placement:
        model = model or observable.load(placement)
        with progress.bar("imatrix", len(chunks), "chunks") as advance:
            return collect_loaded(model, chunks, observable.taps, wanted, keeping=keeping, advance=advance, watch=watch)


def finish(
    collection: Collection, observable: Observable, progress: Progress, *, partial: bool = False
) -> ImportanceMatrix:
    """The collected matrix with estimates where nothing was seen; what is wrong with it is told."""
    from hubquant.imatrix.coverage import coverage, with_estimates

    matrix = collection.matrix()
    if collection.skipped:
        progress.note(
            f"{len(collection.skipped)} chunks gave activations that are not finite and were left out: "
            + ", ".join(map(str, collection.skipped[:10]))
        )
    if partial:  # what this part did not see, others may have seen
        return matrix
    for note in coverage(matrix, collection.taps).notes():
        progress.note(note)
    return with_estimates(matrix, {name: observable.shapes[name] for name in collection.taps})


def _room(shapes: Shapes, n_tokens: int, folder: Path) -> Keep:
    """Where hidden states wait: on a GPU where they are."""
    from hubquant.devices import default_device
    from hubquant.models.spill import Spill
    from hubquant.models.stream import in_memory

    spills = hidden_bytes(shapes, n_tokens) > memory_bytes() // SPILLED_SHARE
    return Spill(folder) if spills and default_device() == "cpu" else in_memory


@contextmanager
def _placement(way: Way, settings: Imatrix, folder: Path) -> Iterator[Placement]:
    """Where weights may be; those on disk are in a folder that is removed afterwards."""
    from hubquant.models.load import Placement

    if way != "disk":
        yield Placement(spread=way == "cpu" or settings.offload == "auto", max_memory=settings.max_memory)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".offload-") as offload:
        yield Placement(spread=True, max_memory=settings.max_memory, disk=Path(offload))
