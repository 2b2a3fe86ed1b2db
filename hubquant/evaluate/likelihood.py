"""The likelihood of a text, and perplexity as llama-perplexity computes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.errors import EvaluationError
from hubquant.evaluate.runner import Runner
from hubquant.evaluate.scoring import n_scored, row_blocks, scored_logits, scored_targets
from hubquant.evaluate.snapshot import FinishedChunks

if TYPE_CHECKING:
    from hubquant.calibration import Chunks


LARGEST_NLL = 300.0


@dataclass(frozen=True)
class Perplexity:
    """``ppl`` = exp of the mean negative log-likelihood; ``error`` is its standard error."""

    ppl: float
    error: float
    n_tokens: int

    def __str__(self) -> str:
        return f"{self.ppl:.4f} ± {self.error:.4f}"

    @classmethod
    def of(cls, nll: Tensor) -> Perplexity:
        """From the negative log-likelihoods [n] of the scored tokens, natural logarithm. Raises EvaluationError where
        they are so large that their exponential is no number to work with."""
        return cls.by(*mean_and_error(nll), len(nll))

    @classmethod
    def by(cls, mean: float, error: float, n_tokens: int) -> Perplexity:
        """From the mean negative log-likelihood and its standard error. Raises EvaluationError as ``of``."""
        if not mean <= LARGEST_NLL:
            raise EvaluationError(
                f"the model gives the text no probability: its mean negative log-likelihood is {mean:.3g}",
                why="random guessing has about 12; the weights or the tokenizer are broken",
                hint="check that weights, config and tokenizer are of one model",
            )
        return cls(ppl=math.exp(mean), error=math.exp(mean) * error, n_tokens=n_tokens)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean of ``values`` [n] and its standard error sqrt((E[v²] − E[v]²) / (n − 1)); llama.cpp reports 0 for n ≤ 10."""
    values = values.double()
    variance = float(values.var(correction=0)) if len(values) > 10 else 0.0
    return float(values.mean()), math.sqrt(variance / max(len(values) - 1, 1))


def perplexity(
    runner: Runner,
    chunks: Chunks,
    *,
    stride: int | None = None,
    snapshot: tuple[Path, bytes] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Perplexity:
    """Perplexity of the model of ``runner`` on ``chunks``, scoring the second half of each, or with ``stride`` so many
    tokens at the end of each.

    ``advance`` is called once per chunk. With ``snapshot``, a file and 32 bytes that tell models and chunks apart,
    every finished chunk is kept there, and a later call goes on. Raises EvaluationError when a logit is not finite.
    """
    n = n_scored(chunks.chunk_size) if stride is None else stride
    store = FinishedChunks(*snapshot, n) if snapshot else None
    parts = [torch.tensor(record) for record in islice(store, len(chunks))] if store is not None else []
    if parts:
        advance(len(parts))
    try:
        for ids in chunks.ids[len(parts) :]:
            nll = negative_log_likelihood(scored_logits(runner, ids, stride), scored_targets(ids, stride))
            if store is not None:
                store.append(nll.numpy())
            parts.append(nll)
            advance(1)
    finally:
        if store is not None:
            store.close()
    return Perplexity.of(torch.cat(parts))


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """-ln p(target) in float64 [n] of ``logits`` [n, n_vocab]; natural logarithm."""
    parts = []
    for rows in row_blocks(logits):
        log_p = in_float64(logits[rows]).log_softmax(1).cpu()
        parts.append(-log_p.gather(1, targets[rows, None]).squeeze(1))
    return torch.cat(parts)
