"""Measurements of files that were never made."""

from __future__ import annotations

import torch

from hubquant.evaluate import Divergence, summarize
from hubquant.evaluate.divergence import TokenStatistics
from hubquant.llamacpp.runtime import RuntimeCheck
from hubquant.publish.recommendation import MeasuredFile

RUNTIME = RuntimeCheck(n_prompts=8, n_agreeing=8, n_same_top=7)


def divergence(kld: float, same_top: float = 0.975, n: int = 10_000) -> Divergence:
    """On ``n`` tokens, whose divergences are spread evenly from 0 to twice the mean."""
    nll = torch.linspace(1, 3, n, dtype=torch.float64)
    spread = torch.linspace(0, 2 * kld, n, dtype=torch.float64)
    n_same = round(n * same_top)
    same = torch.cat([torch.ones(n_same), torch.zeros(n - n_same)]).double()
    entropy = torch.full((n,), 2.0, dtype=torch.float64)
    return summarize([TokenStatistics(nll + spread, nll, spread, -0.1 * spread, same, entropy)], n_vocab=32_000)


def measured_file(
    type: str, gigabytes: float, kld: float | None, same_top: float = 0.975, n: int = 10_000, fork: str | None = None
) -> MeasuredFile:
    """``M-TYPE.gguf``, with as many bits per weight as gigabytes."""
    found = None if kld is None else divergence(kld, same_top, n)
    return MeasuredFile(f"M-{type}.gguf", type, int(gigabytes * 1e9), gigabytes, found, RUNTIME, fork)
