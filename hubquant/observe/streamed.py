"""Collect an importance matrix of a model larger than memory: all chunks pass block after block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hubquant.calibration.chunks import Chunks
from hubquant.models.passes import output_of, outputs_of
from hubquant.models.snapshot import Snapshot
from hubquant.models.taps.observer import Observer
from hubquant.models.taps.tap import Tap
from hubquant.observe.collection import Collection, CollectionRequest, SnapshotPlace, kept_state
from hubquant.observe.collector import run_model

if TYPE_CHECKING:
    from hubquant.models.stream import BlockPass, BlockStream


def collect_streamed(
    stream: BlockStream,
    chunks: Chunks,
    taps: Mapping[str, Tap],
    wanted: CollectionRequest = CollectionRequest(),  # noqa: B008  # frozen
    *,
    observers: Sequence[Observer] = (),
    keeping: SnapshotPlace | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Collection:
    """As ``collect``, but each weight is read once; in memory are two blocks and the hidden states of all chunks.

    A chunk with an activation that is not finite is left out from that block on; what earlier blocks saw of it counts.
    ``advance`` counts chunks passing a block. A killed collection goes on after the last block whose state was kept.
    """
    collection = Collection.of(chunks, taps, wanted, observers)
    kept = kept_state(keeping, stream.model, collection, streamed=True)
    found = kept.found() if kept else None
    first = 0
    if found:
        first = found.chunks_done  # blocks, here
        collection.resume(found)
        advance(first * len(chunks))
    bad = {chunk - 1 for chunk in collection.skipped}
    with torch.no_grad(), stream.pausing(), collection.observing(stream.model):
        stream.weights.load_rest(chunks.ids)

        def forward(ids: torch.Tensor) -> Any:
            return run_model(stream.model, ids, wanted)

        waiting = [output_of(found.tensors, i) if found else None for i in range(len(chunks))]
        passes = [
            stream.start(ids[None], forward, first, output) for ids, output in zip(chunks.ids, waiting, strict=True)
        ]
        for block in stream.loaded(first):
            for i, each in enumerate(passes):
                _step(each, i, collection, bad)
                advance(1)
            collection.done = block + 1
            if kept and all(each.resumable for each in passes):
                kept.keep(lambda: _state(collection, passes), last=block + 1 == stream.n_blocks)
        if wanted.score or wanted.process_output:
            stream.load_output()
            for i, (each, ids) in enumerate(zip(passes, chunks.ids, strict=True)):
                output = _step(each, i, collection, bad)
                if wanted.score and i not in bad:
                    collection.nll.append(wanted.score(ids, output.logits[0]))
        else:
            for each in passes:
                each.drop()
    collection.done = len(chunks)
    return collection


def _step(waiting: BlockPass, chunk: int, collection: Collection, bad: set[int]) -> Any:
    collection.observer.begin(1)
    result = waiting.step()
    if collection.sums.not_finite() is None:
        collection.observer.commit()
    elif chunk not in bad:
        bad.add(chunk)
        collection.skip(chunk)
    return result


def _state(collection: Collection, passes: list[BlockPass]) -> Snapshot:
    """The sums, and what each chunk waits with."""
    state = collection.state()
    return Snapshot({**state.tensors, **outputs_of(passes)}, state.chunks_done)
