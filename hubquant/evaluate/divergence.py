"""How far a model's next-token distributions are from the source model's: the statistics of llama-perplexity
``--kl-divergence``, as pure functions on tensors. Natural logarithms, probabilities as fractions of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.evaluate.blocks import Blocks, composite_score
from hubquant.evaluate.likelihood import Perplexity, mean_and_error
from hubquant.evaluate.moments import Moments
from hubquant.evaluate.quantiles import Quantiles
from hubquant.evaluate.scoring import row_blocks
from hubquant.evaluate.stopping import Stop
from hubquant.units import measured, share


@dataclass(frozen=True)
class TokenStatistics:
    """One value per scored token, float64 [n] each.

    ``nll``, ``nll_base``: -ln of the probability that model and source give to the token that follows.
    ``kld``: Σ p_base (ln p_base − ln q) over the whole vocabulary. ``delta_p``: q − p_base of the token that follows.
    ``same_top``: 1 where the most probable token is the same. ``entropy``: −Σ p_base ln p_base.
    """

    nll: Tensor
    nll_base: Tensor
    kld: Tensor
    delta_p: Tensor
    same_top: Tensor
    entropy: Tensor

    def stacked(self) -> Tensor:
        """float64 [6, n], in the order of the fields."""
        return torch.stack([getattr(self, field.name) for field in fields(self)])


def token_statistics(
    logits: Tensor, base_log_probs: Tensor, base_nll: Tensor, base_top: Tensor, targets: Tensor
) -> TokenStatistics:
    """Compare ``logits`` [n, n_vocab] with the source's log-probabilities [n, n_vocab], which need not be normalized.

    ``base_nll`` and ``base_top`` [n] are the source's exact -ln p(target) and most probable token.
    """
    parts = []
    for rows in row_blocks(logits):
        log_q = in_float64(logits[rows]).log_softmax(1)
        log_p = in_float64(base_log_probs[rows].to(log_q.device)).log_softmax(1)
        nll = -log_q.gather(1, targets[rows, None].to(log_q.device)).squeeze(1).cpu()
        nll_base = base_nll[rows].double()
        p = log_p.exp()
        kld = (p * (log_p - log_q)).sum(1).cpu()
        entropy = -(p * log_p).sum(1).cpu()
        same_top = (log_q.argmax(1).cpu() == base_top[rows]).double()
        parts.append(torch.stack([nll, nll_base, kld, (-nll).exp() - (-nll_base).exp(), same_top, entropy]))
    return TokenStatistics(*torch.cat(parts, dim=1))


PERCENTS = (99.9, 99.0, 95.0, 90.0, 75.0, 25.0, 10.0, 5.0, 1.0, 0.1)
MOST_CHUNKS = 1 << 16
"""Chunks that are told of one by one."""


@dataclass(frozen=True)
class Distribution:
    """``error`` is the standard error of the mean; ``percentiles`` maps the ``PERCENTS`` to values."""

    mean: float
    error: float
    median: float
    minimum: float
    maximum: float
    percentiles: dict[float, float]

    @classmethod
    def of(cls, mean: float, error: float, quantiles: Quantiles) -> Distribution:
        median, minimum, maximum, *others = quantiles.at([0.5, 0.0, 1.0, *(percent / 100 for percent in PERCENTS)])
        return cls(mean, error, median, minimum, maximum, dict(zip(PERCENTS, others, strict=True)))

    @classmethod
    def of_tokens(cls, values: Tensor) -> Distribution:
        """Of ``values`` [n], n ≥ 1."""
        mean, error = mean_and_error(values)
        quantiles = Quantiles()
        quantiles.add(values)
        return cls.of(mean, error, quantiles)


@dataclass(frozen=True)
class Divergence:
    """A model against its source on ``n_tokens`` scored tokens; every ``*_error`` is a standard error.

    ``ratio`` is ppl / ppl_base, whose error takes into account that both were measured on the same tokens;
    ``correlation`` is that of ln ppl and ln ppl_base. ``delta_p_rms`` is the root of the mean squared change of the
    probability of the token that follows; ``same_top`` the share of tokens with an unchanged most probable token;
    ``uniform_kld`` the mean divergence of a prediction that knows nothing. ``kld_bound`` is how far the mean divergence
    is at most, with 99.9 % certainty, from that of whole distributions, where a part of them was stored, or else None.

    The errors are those of llama-perplexity, for which tokens are independent, but for two: ``composite_error`` of the
    ``composite`` score and ``kld_block_error`` of the mean KLD are by block bootstrap over chunks (see
    :mod:`hubquant.evaluate.blocks`), and None where there is one chunk. ``chunks`` are the divergences of each chunk,
    empty where there are more than ``MOST_CHUNKS``; ``texts`` the whole by the name of a text, where several have one;
    ``stop`` tells of a measurement that was to be as long as it takes.
    Measurements of hubquant 0.1 lack these.
    """

    n_tokens: int
    kld: Distribution
    delta_p: Distribution
    delta_p_rms: float
    delta_p_rms_error: float
    same_top: float
    same_top_error: float
    ppl: Perplexity
    ppl_base: Perplexity
    correlation: float
    log_ratio: float
    log_ratio_error: float
    ratio: float
    ratio_error: float
    difference: float
    difference_error: float
    uniform_kld: float
    composite: float | None = None
    composite_error: float | None = None
    kld_block_error: float | None = None
    chunks: tuple[Distribution, ...] = ()
    texts: dict[str, Divergence] = field(default_factory=dict)
    stop: Stop | None = None
    kld_bound: float | None = None

    def __str__(self) -> str:
        kld, top = measured(self.kld.mean, self.kld.error), share(self.same_top, self.same_top_error)
        ratio = measured(self.ratio, self.ratio_error)
        return f"mean KLD {kld}, same top token {top}, PPL ratio {ratio} on {self.n_tokens} tokens"


def summarize(chunks: Iterable[TokenStatistics], n_vocab: int, texts: Sequence[str] = ()) -> Divergence:
    """The statistics that llama-perplexity prints, by its formulas, and how sure they are; memory stays bounded however
    many ``chunks`` there are.

    ``texts`` name the text of each chunk, "" for those that have no name. Raises EvaluationError where the text has no
    probability to speak of, and ``ValueError`` for no chunks.
    """
    whole, by_text = _Summary(), dict[str, _Summary]()
    for number, chunk in enumerate(chunks):
        whole.add(chunk)
        if texts and texts[number]:
            by_text.setdefault(texts[number], _Summary(told=False)).add(chunk)
    return whole.divergence(n_vocab, {name: found.divergence(n_vocab, {}) for name, found in by_text.items()})


NLL, NLL_BASE, KLD, DELTA_P, SAME_TOP, ENTROPY, SQUARE = range(7)
"""What moments are kept of: the fields of ``TokenStatistics``, and the square of ``delta_p``."""


class _Summary:
    """Of the chunks so far; ``told`` keeps what is told of each."""

    def __init__(self, *, told: bool = True) -> None:
        self._moments = Moments(7)
        self._kld, self._delta_p = Quantiles(), Quantiles()
        self._blocks = Blocks()
        self._told = told
        self._chunks: list[Distribution] = []

    def add(self, chunk: TokenStatistics) -> None:
        values = torch.cat([chunk.stacked(), chunk.delta_p[None] ** 2])
        self._moments.add(values)
        self._kld.add(chunk.kld)
        self._delta_p.add(chunk.delta_p)
        self._blocks.add(chunk.kld)
        if self._told and len(self._chunks) <= MOST_CHUNKS:
            self._chunks.append(Distribution.of_tokens(chunk.kld))

    def divergence(self, n_vocab: int, texts: dict[str, Divergence]) -> Divergence:
        moments = self._moments
        if not moments.n:
            raise ValueError("there is nothing to summarize")
        mean, error = moments.mean.tolist(), [moments.error(i) for i in range(7)]
        ppl = Perplexity.by(mean[NLL], error[NLL], moments.n)
        ppl_base = Perplexity.by(mean[NLL_BASE], error[NLL_BASE], moments.n)
        covariance = moments.covariance(NLL, NLL_BASE)
        log_ratio = mean[NLL] - mean[NLL_BASE]
        log_ratio_error = _root(error[NLL] ** 2 + error[NLL_BASE] ** 2 - 2 * covariance)
        ratio, rms, same_top = math.exp(log_ratio), math.sqrt(mean[SQUARE]), mean[SAME_TOP]
        kld = Distribution.of(mean[KLD], error[KLD], self._kld)
        block_error, composite_error = self._blocks.errors() or (None, None)
        return Divergence(
            n_tokens=moments.n,
            kld=kld,
            delta_p=Distribution.of(mean[DELTA_P], error[DELTA_P], self._delta_p),
            delta_p_rms=rms,
            delta_p_rms_error=0.5 / rms * error[SQUARE] if rms else 0.0,
            same_top=same_top,
            same_top_error=math.sqrt(same_top * (1 - same_top) / max(moments.n - 1, 1)),
            ppl=ppl,
            ppl_base=ppl_base,
            correlation=covariance / (error[NLL] * error[NLL_BASE]) if error[NLL] and error[NLL_BASE] else 1.0,
            log_ratio=log_ratio,
            log_ratio_error=log_ratio_error,
            ratio=ratio,
            ratio_error=ratio * log_ratio_error,
            difference=ppl.ppl - ppl_base.ppl,
            difference_error=_root(ppl.error**2 + ppl_base.error**2 - 2 * ppl.ppl * ppl_base.ppl * covariance),
            uniform_kld=math.log(n_vocab) - mean[ENTROPY],
            composite=composite_score(kld.median, *(kld.percentiles[percent] for percent in (90.0, 95.0, 99.0))),
            composite_error=composite_error,
            kld_block_error=block_error,
            chunks=tuple(self._chunks) if len(self._chunks) <= MOST_CHUNKS else (),
            texts=texts,
        )


def _root(variance: float) -> float:
    """Of a variance that rounding may have made negative."""
    return math.sqrt(max(variance, 0.0))
