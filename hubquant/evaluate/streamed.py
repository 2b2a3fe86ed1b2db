"""Compare models larger than memory: the blocks of one model come one after the other, and all chunks pass them.

Of the source model is kept what its last block gave. It becomes logits again, by its output layer, when those of a file
are there: no logits are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hubquant.calibration.chunks import Chunks
from hubquant.errors import EvaluationError
from hubquant.evaluate.comparison import FIELDS, StoredStatistics, conclude
from hubquant.evaluate.divergence import Divergence
from hubquant.evaluate.pairs import statistics_of
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import finite, n_scored
from hubquant.evaluate.snapshot import FinishedChunks
from hubquant.models.language_model import where_it_runs
from hubquant.models.passes import LastOutputs, before_output, output_of
from hubquant.models.snapshot import KeptState
from hubquant.models.stream import BlockPass, BlockStream

Advance = Callable[[int], None]


def keep_last_outputs(stream: BlockStream, chunks: Chunks, kept: KeptState, advance: Advance = lambda _: None) -> None:
    """What the last block of the source model gives for each chunk, in the file of ``kept``, where a killed call goes
    on. ``advance`` counts chunks passing a block."""
    with before_output(stream, list(chunks.ids), _scoring(stream), kept, advance) as passes:
        for each in passes:
            each.drop()


def compare_streamed(
    stream: BlockStream,
    source: BlockStream,
    outputs: Path,
    chunks: Chunks,
    kept: KeptState,
    finished: FinishedChunks,
    *,
    texts: Sequence[str] = (),
    report: Path | None = None,
    advance: Advance = lambda _: None,
) -> Divergence:
    """How far the model of ``stream`` is from ``source``, of which :func:`keep_last_outputs` left ``outputs``.

    A killed call goes on: after the last block that is ``kept``, and after the last of the chunks that are
    ``finished``, records of ``len(FIELDS)`` times the scored tokens of a chunk. ``texts`` and ``report`` are those of
    :func:`hubquant.evaluate.compare`. ``advance`` counts chunks passing a block, and in the end the output layers.
    Raises EvaluationError when a logit is not finite or the vocabularies differ.
    """
    if stream.weights.n_vocab != source.weights.n_vocab:
        raise EvaluationError(
            f"the file has a vocabulary of {stream.weights.n_vocab}, the model one of {source.weights.n_vocab}",
            why="they belong to different models",
            hint="name the model that the file was made from",
        )
    last = LastOutputs(outputs)
    done = len(finished)
    with before_output(stream, list(chunks.ids), _scoring(stream), kept, advance) as passes, source.pausing():
        advance(done)
        source.weights.load_rest(chunks.ids)
        stream.load_output()
        source.load_output()
        for i in range(done, len(chunks)):
            begun = source.start(chunks.ids[i][None], _scoring(source), source.n_blocks, output_of(last, i))
            statistics = statistics_of(_logits(passes[i]), _logits(begun), chunks.ids[i])
            finished.append(statistics.stacked().flatten().numpy())
            advance(1)
        for each in passes[:done]:
            each.drop()
    measured = StoredStatistics(finished, range(len(chunks)), len(FIELDS))
    return conclude(measured, stream.weights.n_vocab, texts, report)


@contextmanager
def predicting(stream: BlockStream, outputs: Path, chunks: Tensor) -> Iterator[Runner]:
    """Runs the model of ``stream`` on any of ``chunks``, ids [n, chunk_size], of which :func:`keep_last_outputs` left
    ``outputs``: no more than the output layer is loaded."""
    last, numbers = LastOutputs(outputs), {ids.numpy().tobytes(): number for number, ids in enumerate(chunks)}

    def runner(ids: Tensor, first: int = 0, /) -> Tensor:
        def forward(inputs: Tensor) -> Any:
            return run_streamed(stream, inputs, len(ids) - first)

        waiting = output_of(last, numbers[ids.numpy().tobytes()])
        logits: Tensor = stream.start(ids[None], forward, stream.n_blocks, waiting).step().logits[0]
        return logits

    with torch.no_grad(), stream.pausing():
        stream.weights.load_rest(chunks)
        stream.load_output()
        yield runner


def next_tokens(stream: BlockStream, prompts: Sequence[Tensor]) -> list[int]:
    """The most probable token after each of the ``prompts``, ids [n] each."""

    def forward(ids: Tensor) -> Any:
        return run_streamed(stream, ids, 1)

    with before_output(stream, prompts, forward) as passes:
        stream.load_output()
        return [int(finite(each.step().logits[0, -1]).argmax()) for each in passes]


def _scoring(stream: BlockStream) -> Callable[[Tensor], Any]:
    """Runs the model up to the logits of the scored tokens, and of the one after the last."""
    return lambda ids: run_streamed(stream, ids, n_scored(ids.shape[1]) + 1)


def run_streamed(stream: BlockStream, ids: Tensor, logits: int) -> Any:
    """Transformers' output for ``ids`` [1, n], with that many logits of the last tokens."""
    model: Any = stream.model
    return model(input_ids=where_it_runs(model, ids), use_cache=False, logits_to_keep=logits)


def _logits(waiting: BlockPass) -> Tensor:
    """float32 [n_scored, n_vocab]"""
    logits: Tensor = waiting.step().logits[0, :-1]
    return finite(logits)
