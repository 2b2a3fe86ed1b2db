"""What each tensor's type does to a model's predictions: measured for one type, estimated for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from hubquant.devices import in_float64
from hubquant.evaluate.scoring import row_blocks

LEAST = 0.01
"""Of the median tensor's divergence: what a tensor is taken to cause at least. A few chunks may not reach all experts,
and what they do not reach is not free."""


@dataclass(frozen=True)
class TensorSensitivity:
    """``kld`` is the mean divergence, in nats per token, of the model's predictions when this tensor alone is of
    ``type``; ``errors`` are the squared errors of each type, weighted by the importance of columns. ``check_kld`` was
    measured with ``check_type``, None where that was not done. ``fed_back`` is the share of the divergence that is left
    with error feedback, 1 without."""

    name: str
    type: str
    kld: float
    errors: Mapping[str, float]
    check_type: str | None = None
    check_kld: float | None = None
    fed_back: float = 1.0

    def expected(self, type: str, least: float = 0.0) -> float:
        """The divergence with ``type``, without feedback: to second order it grows as the squared error of the tensor
        does. ``least`` is what ``self.type`` causes at least."""
        unit = self.errors[self.type]
        return max(self.kld, least) * self.errors[type] / unit if unit else 0.0


@dataclass(frozen=True)
class Sensitivities:
    """Of all tensors, on ``n_tokens``. ``correlation`` is that of the logarithms of estimates and measurements where
    both were made, None of fewer than three."""

    tensors: tuple[TensorSensitivity, ...]
    n_tokens: int
    correlation: float | None

    @classmethod
    def of(cls, tensors: Sequence[TensorSensitivity], n_tokens: int) -> Sensitivities:
        pairs = [
            (math.log(each.expected(each.check_type)), math.log(each.check_kld))
            for each in tensors
            if each.check_type and each.check_kld and each.check_kld > 0 and each.expected(each.check_type) > 0
        ]
        return cls(tuple(tensors), n_tokens, _correlation(pairs))

    @property
    def least(self) -> float:
        return LEAST * median(each.kld for each in self.tensors) if self.tensors else 0.0

    def expected(self) -> dict[str, dict[str, float]]:
        """By tensor and type, as files are rounded."""
        least = self.least
        return {
            each.name: {type: each.fed_back * each.expected(type, least) for type in each.errors}
            for each in self.tensors
        }


def mean_kld(logits: Tensor, base_log_probs: Tensor) -> float:
    """Mean Σ p (ln p − ln q) over rows of ``logits`` [n, n_vocab] and the source's normalized log-probabilities."""
    total = 0.0
    for rows in row_blocks(logits):
        log_q = in_float64(logits[rows]).log_softmax(1)
        log_p = in_float64(base_log_probs[rows]).log_softmax(1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return max(0.0, total / len(logits))


def weighted_squared_error(x: Tensor, y: Tensor, importance: Tensor | None) -> float:
    """Σ w_c (x − y)² over ``x`` and ``y`` [rows, n], with ``importance`` [n] or ones as w."""
    columns = torch.zeros(x.shape[-1], dtype=torch.float32, device=x.device)
    for a, b in zip(torch.split(x, _ROWS), torch.split(y, _ROWS), strict=True):
        columns += (a - b).square_().sum(0)
    weights = torch.ones_like(columns) if importance is None else importance.to(columns)
    return float((columns.double().cpu() * weights.double().cpu()).sum())


_ROWS = 4096


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3:
        return None
    found = float(torch.corrcoef(torch.tensor(pairs, dtype=torch.float64).T)[0, 1])
    return found if math.isfinite(found) else None
