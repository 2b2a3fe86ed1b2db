"""Compare a model with a stored baseline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hubquant.errors import BaselineError, EvaluationError
from hubquant.evaluate.baseline import Baseline
from hubquant.evaluate.divergence import Divergence, TokenStatistics, summarize, token_statistics
from hubquant.evaluate.files import Snapshot
from hubquant.evaluate.scoring import LanguageModel, row_blocks, scored_logits, scored_targets


def compare(
    model: LanguageModel,
    baseline: Baseline,
    *,
    snapshot: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Divergence:
    """How far ``model`` is from ``baseline``, over all its chunks; ``advance`` is called once per chunk.

    With ``snapshot`` every finished chunk is kept in that file, and a later call with the same baseline goes on from
    there; the file must be used for one model only, and is the caller's to delete. Raises EvaluationError when a logit
    is not finite or the vocabularies differ, BaselineError when the baseline is empty.
    """
    if not baseline.n_chunks:
        raise BaselineError("the baseline is empty", hint="write it again: hubquant evaluate baseline")
    finished: list[np.ndarray] = []
    store = Snapshot(snapshot, baseline.key, len(FIELDS) * baseline.n_scored) if snapshot else None
    if store:
        finished = store.records[: baseline.n_chunks]
        advance(len(finished))
    ids = baseline.ids
    try:
        for chunk in range(len(finished), baseline.n_chunks):
            values = _chunk_statistics(model, baseline, chunk, ids[chunk]).stacked().flatten().numpy()
            if store:
                store.append(values)
            finished.append(values)
            advance(1)
    finally:
        if store:
            store.close()
    columns = torch.from_numpy(np.concatenate([row.reshape(len(FIELDS), -1) for row in finished], axis=1))
    return summarize(TokenStatistics(*columns))


FIELDS = tuple(TokenStatistics.__dataclass_fields__)


def _chunk_statistics(model: LanguageModel, baseline: Baseline, chunk: int, ids: torch.Tensor) -> TokenStatistics:
    logits = scored_logits(model, ids)
    if logits.shape[1] != baseline.n_vocab:
        raise EvaluationError(
            f"the model has a vocabulary of {logits.shape[1]}, the baseline one of {baseline.n_vocab}",
            why="they belong to different models",
            hint="write a baseline of the model that the file was made from",
        )
    targets, nll, top = scored_targets(ids), baseline.nll(chunk), baseline.top(chunk)
    parts = [
        token_statistics(logits[rows], baseline.log_probs(chunk, rows), nll[rows], top[rows], targets[rows]).stacked()
        for rows in row_blocks(logits)
    ]
    return TokenStatistics(*torch.cat(parts, dim=1))
