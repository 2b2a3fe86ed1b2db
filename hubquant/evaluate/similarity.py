"""How much embeddings are like those of the source model: the cosines between both, and whether both rank pairs of
texts alike. Pure functions on tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hubquant.errors import EvaluationError
from hubquant.units import measured

Values = NDArray[np.float64]

LEAST_TEXTS = 4
"""Of fewer, one cannot be left out with pairs to rank among the others."""
GROUPS = 32
MOST_RANKED = 1024
LEAST_COSINE, LEAST_BITS = 0.5, 6.0


@dataclass(frozen=True)
class Similarity:
    """A model's embeddings of ``n_texts`` texts against its source's; every ``*_error`` is a standard error.

    ``cosine`` is the mean of the cosines, with their least, their first and fifth percentile and their median.
    ``spearman`` is Spearman's rank correlation, over ``n_pairs`` pairs of texts, of the cosine between the two
    embeddings by the model and the same by the source: 1 where every search finds the same texts in the same order.
    Its error is a jackknife's over ``GROUPS`` groups of neighbouring texts, as pairs that share a text are not
    independent. ``n_tokens`` are those of all texts, ``pooling`` is how a text's states become one embedding.
    """

    n_texts: int
    n_tokens: int
    pooling: str
    cosine: float
    cosine_error: float
    minimum: float
    percentile_1: float
    percentile_5: float
    median: float
    spearman: float
    spearman_error: float
    n_pairs: int

    @property
    def distance(self) -> float:
        """1 − ``cosine``."""
        return 1 - self.cosine

    def __str__(self) -> str:
        cosine, rank = measured(self.cosine, self.cosine_error), measured(self.spearman, self.spearman_error)
        return f"mean cosine {cosine}, rank correlation of pairs {rank} on {self.n_texts} texts"


def compare_embeddings(source: Tensor, found: Tensor, n_tokens: int, pooling: str) -> Similarity:
    """Of embeddings [n, width] of the same n texts. Raises ``EvaluationError`` for fewer than ``LEAST_TEXTS`` and for
    an embedding that is not finite or zero."""
    if len(source) < LEAST_TEXTS:
        raise EvaluationError(
            f"{len(source)} texts are too few to compare embeddings",
            why="pairs of them are ranked, and one is left out to see how sure that is",
            hint=f"use at least {LEAST_TEXTS} chunks",
        )
    a, b = _unit(source, "the source model"), _unit(found, "the file")
    # By 1 - |a - b|² / 2: of nearly equal vectors the product would lose the digits that matter.
    cosines = 1 - ((a - b) ** 2).sum(axis=1) / 2
    minimum, first, fifth, median = np.quantile(cosines, [0.0, 0.01, 0.05, 0.5]).tolist()
    spearman, error, n_pairs = _rank_agreement(a, b)
    return Similarity(
        n_texts=len(a),
        n_tokens=n_tokens,
        pooling=pooling,
        cosine=float(cosines.mean()),
        cosine_error=float(cosines.std(ddof=1)) / math.sqrt(len(a)),
        minimum=minimum,
        percentile_1=first,
        percentile_5=fifth,
        median=median,
        spearman=spearman,
        spearman_error=error,
        n_pairs=n_pairs,
    )


def spearman(x: Values, y: Values) -> float:
    """Spearman's ρ of two lists [n]: Pearson's correlation of ranks, where equal values share the mean of theirs."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(x), _ranks(y)))
    spread = math.sqrt(float(a @ a) * float(b @ b))
    if not spread:  # nothing to rank in one of them
        return float(np.array_equal(a, b))
    return float(a @ b) / spread


def check_similar(name: str, bits: float, measured: Similarity) -> None:
    """Raises ``EvaluationError`` when the file called ``name``, whose tensors have at least so many bits per weight,
    cannot be the source with such rounding: from ``LEAST_BITS`` bits per weight on a mean cosine stays above
    ``LEAST_COSINE``."""
    if measured.cosine >= LEAST_COSINE or bits < LEAST_BITS:
        return
    raise EvaluationError(
        f"{name} does not embed as the source model does: the mean cosine is {measured.cosine:.3g}",
        why="rounding to its types does not explain that; its weights, their conversion or the tokenizer are wrong",
        hint="check that weights, config and tokenizer are of one model, and add --fresh to make everything again; "
        "if it stays so, report it with the name of the model",
    )


def _unit(embeddings: Tensor, whose: str) -> Values:
    values: Values = embeddings.double().numpy()
    lengths = np.sqrt((values**2).sum(axis=1, keepdims=True))
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise EvaluationError(f"{whose} gives an embedding that is zero or not finite", hint="check the weights")
    unit: Values = values / lengths
    return unit


def _rank_agreement(a: Values, b: Values) -> tuple[float, float, int]:
    """Spearman's ρ over pairs of texts, its standard error, and how many pairs; of more than ``MOST_RANKED`` texts so
    many, evenly spread."""
    chosen = np.linspace(0, len(a) - 1, min(len(a), MOST_RANKED)).round().astype(int)
    by_source, by_file = (x[chosen] @ x[chosen].T for x in (a, b))

    def agreement(texts: NDArray[np.int64]) -> float:
        pairs = np.triu_indices(len(texts), 1)
        return spearman(*(x[np.ix_(texts, texts)][pairs] for x in (by_source, by_file)))

    every, n = np.arange(len(chosen)), len(chosen)
    left_out = np.array([agreement(np.setdiff1d(every, group)) for group in np.array_split(every, min(n, GROUPS))])
    error = math.sqrt((len(left_out) - 1) * float(left_out.var()))
    return agreement(every), error, n * (n - 1) // 2


def _ranks(x: Values) -> Values:
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: Values = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
