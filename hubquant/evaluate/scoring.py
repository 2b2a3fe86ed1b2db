"""Which tokens of a chunk are scored, and the logits they are scored with."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from hubquant.errors import EvaluationError
from hubquant.evaluate.runner import Runner

BLOCK_ELEMENTS = 1 << 22
"""Logits worked on at a time: 32 MB in float64, whatever the size of the vocabulary."""


def scored_positions(chunk_size: int, last: int | None = None) -> slice:
    """Positions whose logits predict a scored token: llama-perplexity scores the second half of a chunk, where every
    token has at least ``chunk_size // 2`` tokens of context; with a stride, the ``last`` tokens of a window."""
    first = chunk_size // 2 if last is None else chunk_size - 1 - last
    return slice(first, chunk_size - 1)


def n_scored(chunk_size: int) -> int:
    """Scored tokens per chunk: 255 of 512."""
    return chunk_size - 1 - chunk_size // 2


def scored_targets(ids: Tensor, last: int | None = None) -> Tensor:
    """The tokens [n_scored] that the logits at ``scored_positions`` predict; ``ids`` [chunk_size]."""
    return ids[scored_positions(len(ids), last).start + 1 :]


def scored_logits(runner: Runner, ids: Tensor, last: int | None = None) -> Tensor:
    """Logits [n_scored, n_vocab] of one chunk of ``ids`` [chunk_size] at ``scored_positions``. Raises EvaluationError
    unless all are finite."""
    positions = scored_positions(len(ids), last)
    return finite(runner(ids, positions.start)[: positions.stop - positions.start])


def finite(logits: Tensor) -> Tensor:
    """``logits`` of any shape. Raises EvaluationError unless all are finite."""
    bad = logits.numel() - int(logits.isfinite().sum())
    if bad:
        raise EvaluationError(
            f"the model gives {bad} logits that are NaN or infinite",
            why="its weights or its activations overflow",
            hint="look for NaN in the weights, or evaluate in float32",
        )
    return logits


def row_blocks(logits: Tensor) -> Iterator[slice]:
    """Slices over the rows of ``logits`` [n, n_vocab] that hold about ``BLOCK_ELEMENTS`` each."""
    return blocks_of(*logits.shape)


def blocks_of(n: int, n_vocab: int) -> Iterator[slice]:
    """Such slices over ``n`` rows of ``n_vocab``."""
    step = max(1, BLOCK_ELEMENTS // n_vocab)
    return (slice(start, start + step) for start in range(0, n, step))
