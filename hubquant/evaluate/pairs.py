"""Compare two models that both give their logits, without a stored baseline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hubquant.evaluate.comparison import FIELDS, take_chunks
from hubquant.evaluate.divergence import Divergence, TokenStatistics, token_statistics
from hubquant.evaluate.likelihood import negative_log_likelihood
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import n_scored, row_blocks, scored_logits, scored_targets
from hubquant.evaluate.snapshot import FinishedChunks
from hubquant.evaluate.stopping import Precision


def statistics_of(logits: Tensor, base: Tensor, ids: Tensor) -> TokenStatistics:
    """Of ``logits`` [n_scored, n_vocab] against ``base`` of the same shape, on one chunk of ``ids`` [chunk_size]."""
    targets = scored_targets(ids)
    parts = []
    for rows in row_blocks(logits):
        nll = negative_log_likelihood(base[rows], targets[rows])
        top = base[rows].argmax(1).cpu()
        parts.append(token_statistics(logits[rows], base[rows], nll, top, targets[rows]).stacked())
    return TokenStatistics(*torch.cat(parts, dim=1))


def compare_runners(
    runner: Runner,
    base: Runner,
    chunks: Tensor,
    n_vocab: int,
    *,
    snapshot: tuple[Path, bytes],
    until: Precision | None = None,
    report: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Divergence:
    """How far ``runner`` is from ``base`` on ``chunks`` of ids [n, chunk_size]; ``advance`` is called once per chunk.
    Both have a vocabulary of ``n_vocab``.

    Every finished chunk is kept in the file of ``snapshot``, under the 32 bytes that tell models and chunks apart, and
    a later call goes on. ``until`` and ``report`` are those of :func:`hubquant.evaluate.comparison.compare`. Raises
    EvaluationError when a logit is not finite.
    """
    path, key = snapshot
    finished = FinishedChunks(path, key, len(FIELDS) * n_scored(chunks.shape[1]))

    def record(chunk: int) -> np.ndarray:
        ids = chunks[chunk]
        found = statistics_of(scored_logits(runner, ids), scored_logits(base, ids), ids)
        return found.stacked().flatten().numpy()

    try:
        taken = take_chunks(record, range(len(chunks)), finished, len(FIELDS), until, advance)
    finally:
        finished.close()
    return taken.conclude(n_vocab, report=report)
