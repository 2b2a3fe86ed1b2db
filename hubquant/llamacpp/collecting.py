"""Collect an importance matrix of a GGUF file as llama.cpp runs it, where transformers cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from hubquant.calibration.chunks import Chunks
from hubquant.devices import in_float64
from hubquant.llamacpp.runner import LlamaCppRunner
from hubquant.models.snapshot import KeptState
from hubquant.models.taps.tap import ModuleInput
from hubquant.observe.collection import Collection, CollectionRequest, SnapshotPlace
from hubquant.observe.sums import Sums


def collect_in_llamacpp(
    path: Path,
    chunks: Chunks,
    weights: Iterable[str],
    wanted: CollectionRequest,
    *,
    keeping: SnapshotPlace,
    instead: str,
    advance: Callable[[int], None] = lambda _: None,
    watch: Callable[[Collection], None] = lambda _: None,
) -> Collection:
    """Sums over what llama.cpp multiplies with these ``weights`` of the file at ``path``, a chunk at a time.

    As :func:`hubquant.observe.collect` for the rest; what is kept is of the ``source`` of ``keeping`` alone, and
    ``instead`` is as :class:`LlamaCppRunner` has it. Raises ``EvaluationError`` where llama.cpp cannot run the file.
    """
    # Each is shown by itself, and in the order of its columns in the file.
    collection = Collection(chunks, {name: ModuleInput(name) for name in weights}, wanted)
    kept = KeptState(keeping.path, keeping.source, keeping.seconds)
    if found := kept.found():
        collection.resume(found)
        advance(collection.done)
    with LlamaCppRunner(path, chunks.chunk_size, watched=[*collection.taps], instead=instead) as runner:
        while collection.done < len(chunks):
            _run(runner, collection)
            advance(1)
            watch(collection)
            kept.keep(collection.state, last=collection.done == len(chunks))
    return collection


def _run(runner: LlamaCppRunner, collection: Collection) -> None:
    """The next chunk, which is left out where something is not finite."""
    sums, score, ids = collection.sums, collection.wanted.score, collection.chunks.ids[collection.done]
    logits, found = runner.watched_pass(ids, len(ids) // 2 if score else len(ids))
    sums.begin(1)
    for name, each in found.items():
        sums.add(name, Sums(in_float64(each.sum2), in_float64(each.sum), each.counts))
    if sums.not_finite() is None:
        sums.commit()
        collection.nll += [score(ids, logits)] if score else []
    else:
        collection.skip(collection.done)
    collection.done += 1
