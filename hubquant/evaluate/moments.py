"""Means, variances and covariances of values that come in pieces."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Moments:
    """Of ``k`` quantities that are measured together, in float64 (Chan, Golub and LeVeque, 1979)."""

    def __init__(self, k: int) -> None:
        self.n = 0
        self.mean = torch.zeros(k, dtype=torch.float64)
        self._products = torch.zeros(k, k, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """``values`` float64 [k, n], n ≥ 1."""
        n = values.shape[1]
        mean = values.mean(1)
        centred, step = values - mean[:, None], mean - self.mean
        total = self.n + n
        self._products += centred @ centred.T + torch.outer(step, step) * (self.n * n / total)
        self.mean += step * (n / total)
        self.n = total

    def error(self, i: int) -> float:
        """The standard error of a mean, sqrt((E[v²] − E[v]²) / (n − 1)); llama.cpp reports 0 for n ≤ 10."""
        return math.sqrt(max(self.covariance(i, i), 0.0))

    def covariance(self, i: int, j: int) -> float:
        """Of two means."""
        if self.n <= 10:
            return 0.0
        return float(self._products[i, j]) / self.n / (self.n - 1)
