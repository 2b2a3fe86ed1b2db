"""How far a model's next-token distributions are from the source model's: the statistics of llama-perplexity
``--kl-divergence``, as pure functions on tensors. Natural logarithms, probabilities as fractions of one."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.evaluate.likelihood import Perplexity, mean_and_error
from hubquant.evaluate.scoring import row_blocks


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
    def of(cls, values: Tensor) -> Distribution:
        """Of ``values`` [n], n ≥ 1, in float64."""
        mean, error = mean_and_error(values)
        ordered = values.double().sort().values
        percentiles = {percent: quantile(ordered, percent / 100) for percent in PERCENTS}
        return cls(mean, error, quantile(ordered, 0.5), float(ordered[0]), float(ordered[-1]), percentiles)


def quantile(ordered: Tensor, fraction: float) -> float:
    """Linear interpolation at place ``fraction * (n − 1)`` of sorted values [n], n ≥ 1; ``fraction`` from 0 to 1."""
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


@dataclass(frozen=True)
class Divergence:
    """A model against its source on ``n_tokens`` scored tokens; every ``*_error`` is a standard error.

    ``ratio`` is ppl / ppl_base, whose error takes into account that both were measured on the same tokens;
    ``correlation`` is that of ln ppl and ln ppl_base. ``delta_p_rms`` is the root of the mean squared change of the
    probability of the token that follows; ``same_top`` the share of tokens with an unchanged most probable token;
    ``uniform_kld`` the mean divergence of a prediction that knows nothing.
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


def summarize(tokens: TokenStatistics, n_vocab: int) -> Divergence:
    """The statistics that llama-perplexity prints, by its formulas. Raises EvaluationError where the text has no
    probability to speak of."""
    n = len(tokens.nll)
    ppl, ppl_base = Perplexity.of(tokens.nll), Perplexity.of(tokens.nll_base)
    mean, error = mean_and_error(tokens.nll)
    mean_base, error_base = mean_and_error(tokens.nll_base)
    covariance = float(((tokens.nll - mean) * (tokens.nll_base - mean_base)).mean()) / max(n - 1, 1) if n > 10 else 0.0
    log_ratio_error = _root(error**2 + error_base**2 - 2 * covariance)
    ratio = math.exp(mean - mean_base)
    mean_square, mean_square_error = mean_and_error(tokens.delta_p**2)
    rms = math.sqrt(mean_square)
    same_top = float(tokens.same_top.mean())
    return Divergence(
        n_tokens=n,
        kld=Distribution.of(tokens.kld),
        delta_p=Distribution.of(tokens.delta_p),
        delta_p_rms=rms,
        delta_p_rms_error=0.5 / rms * mean_square_error if rms else 0.0,
        same_top=same_top,
        same_top_error=math.sqrt(same_top * (1 - same_top) / max(n - 1, 1)),
        ppl=ppl,
        ppl_base=ppl_base,
        correlation=covariance / (error * error_base) if error and error_base else 1.0,
        log_ratio=mean - mean_base,
        log_ratio_error=log_ratio_error,
        ratio=ratio,
        ratio_error=ratio * log_ratio_error,
        difference=ppl.ppl - ppl_base.ppl,
        uniform_kld=math.log(n_vocab) - float(tokens.entropy.mean()),
        difference_error=_root(ppl.error**2 + ppl_base.error**2 - 2 * ppl.ppl * ppl_base.ppl * covariance),
    )


def _root(variance: float) -> float:
    """Of a variance that rounding may have made negative."""
    return math.sqrt(max(variance, 0.0))
