"""Collect an importance matrix: run a model over chunks of tokens and sum what flows into its matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hubquant.calibration.chunks import Chunks
from hubquant.models.language_model import where_it_runs
from hubquant.models.taps.observer import Observer
from hubquant.models.taps.tap import Tap
from hubquant.observe.collection import Collection, CollectionRequest, SnapshotPlace, kept_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 2048  # llama-imatrix's batch


def collect(
    model: PreTrainedModel,
    chunks: Chunks,
    taps: Mapping[str, Tap],
    wanted: CollectionRequest = CollectionRequest(),  # noqa: B008  # frozen
    *,
    observers: Sequence[Observer] = (),
    keeping: SnapshotPlace | None = None,
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[int], None] = lambda _: None,
    watch: Callable[[Collection], None] = lambda _: None,
) -> Collection:
    """Sums over what the ``taps`` see (GGUF weight -> tap), which ``observers`` are shown too.

    Squares are summed in float32 over one chunk and in float64 over the chunks, on the device of the activation. A
    chunk in which an activation is NaN, infinite or too large to be squared is run again in float32, if the model is
    in half precision, and left out if that does not help.

    ``batch_tokens`` decides how many chunks run at a time, and with that the last bits of the results. ``advance``
    counts chunks, ``watch`` is shown the collection after every batch. With ``keeping`` the state is kept in a file,
    and a killed collection goes on from there with bit-identical results; the file stays until the caller, who has
    saved the matrix, removes it. Raises ``ImatrixError`` for a module that the model does not have, and when no
    chunk is left.
    """
    collection = Collection.of(chunks, taps, wanted, observers)
    batch = batch_chunks(chunks.chunk_size, batch_tokens)
    kept = kept_state(keeping, model, collection, batch=batch)
    if kept and (found := kept.found()):
        collection.resume(found)
        advance(collection.done)
    forward = _Forward(model, wanted)
    with torch.no_grad(), collection.observing(model):
        while collection.done < len(chunks):
            n = min(batch, len(chunks) - collection.done)
            _run(forward, collection, collection.done, n)
            collection.done += n
            advance(n)
            watch(collection)
            if kept:
                kept.keep(collection.state, last=collection.done == len(chunks))
    return collection


def batch_chunks(chunk_size: int, batch_tokens: int = BATCH_TOKENS) -> int:
    """Chunks that are run at a time: whole ones, and at least one."""
    return max(1, batch_tokens // chunk_size)


def run_model(model: Any, ids: torch.Tensor, wanted: CollectionRequest) -> Any:
    """The model's output for ``ids`` [n, chunk_size], with the logits that ``wanted`` looks at: all of them pass the
    output layer when its inputs are observed, the second half of each chunk when it is scored."""
    inputs = {"input_ids": where_it_runs(model, ids), "use_cache": False}
    if wanted.score is None and not wanted.process_output:
        return model.base_model(**inputs)
    kept = 0 if wanted.process_output else ids.shape[1] - ids.shape[1] // 2
    return model(**inputs, logits_to_keep=kept)


class _Forward:
    """Runs chunks, computing no more than somebody looks at: logits are the largest tensor of all."""

    def __init__(self, model: PreTrainedModel, wanted: CollectionRequest) -> None:
        self.model, self._wanted = model, wanted

    def __call__(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """The scores of chunks [n, chunk_size]."""
        output = run_model(self.model, ids, self._wanted)
        score = self._wanted.score
        return [score(row, logits) for row, logits in zip(ids, output.logits, strict=True)] if score else []


def _run(forward: _Forward, collection: Collection, first: int, n: int) -> None:
    """Run ``n`` chunks together; if that gives something that is not finite, each by itself."""
    ids, observer = collection.chunks.ids[first : first + n], collection.observer
    for attempt in (_as_it_is, _in_float32):
        with attempt(forward.model) as possible:
            if not possible:
                break
            observer.begin(n)
            nll = forward(ids)
            if collection.sums.not_finite() is None:
                observer.commit()
                collection.nll += nll
                return
        if n > 1:
            for chunk in range(first, first + n):
                _run(forward, collection, chunk, 1)
            return
    collection.skip(first)


@contextmanager
def _as_it_is(_model: PreTrainedModel) -> Iterator[bool]:
    yield True


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[bool]:
    """Whether the model, in half precision before, is in float32 for a while: there must be room for its weights."""
    dtype = model.dtype
    if dtype == torch.float32 or getattr(model, "hf_device_map", None):
        yield False
        return
    try:
        try:
            model.to(torch.float32)  # type: ignore[arg-type]
        except torch.OutOfMemoryError:
            yield False
            return
        yield True
    finally:
        model.to(dtype)  # type: ignore[arg-type]
