"""Quantiles, moments and errors of values that come in pieces, against numpy on the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hubquant.evaluate import blocks
from hubquant.evaluate.blocks import Blocks, composite_score
from hubquant.evaluate.moments import Moments
from hubquant.evaluate.quantiles import Quantiles


def skewed(n_chunks: int, n: int, seed: int = 0) -> torch.Tensor:
    """Divergences [n_chunks, n] whose chunks differ."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randn(n_chunks, 1, generator=generator, dtype=torch.float64)
    return torch.exp(-5 + 0.5 * levels + 1.5 * torch.randn(n_chunks, n, generator=generator, dtype=torch.float64))


def score(values: np.ndarray) -> float:
    return composite_score(*np.quantile(values, [0.5, 0.9, 0.95, 0.99]))


def test_moments_are_those_of_the_whole() -> None:
    values = torch.randn(3, 1000, dtype=torch.float64) + torch.tensor([[1e3], [0], [-5]])
    moments = Moments(3)
    for part in values.split([1, 13, 500, 486], dim=1):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, values.mean(1), rtol=1e-13, atol=1e-13)
    expected = np.cov(values.numpy(), ddof=0) / 999
    found = [[moments.covariance(i, j) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_the_sketch_of_many_values_keeps_to_its_bound() -> None:
    values = skewed(40, 5000).flatten()
    few, many = Quantiles(), Quantiles(exact=50_000)
    for part in values.split(5000):
        few.add(part)
        many.add(part)
    fractions = [0.0, 0.001, 0.05, 0.5, 0.9, 0.99, 0.999, 1.0]
    np.testing.assert_allclose(few.at(fractions), np.quantile(values, fractions), rtol=1e-12)
    ranks = [float((values <= found).double().mean()) for found in many.at(fractions)]
    np.testing.assert_allclose(ranks, fractions, atol=5e-4)
    assert many.at([0.0, 1.0]) == [values.min(), values.max()]


def test_the_score_is_that_of_the_guide() -> None:
    assert composite_score(0.008, 0.1, 0.2, 1.0) == pytest.approx(0.008 ** (1 / 3) * (1.0 + 0.8 + 0.5) ** (2 / 3))
    assert composite_score(-1e-18, 0.0, 0.0, 0.0) == 0


def test_errors_are_those_of_a_bootstrap_of_the_chunks_themselves() -> None:
    values = skewed(60, 200).numpy()
    found = Blocks()
    for chunk in values:
        found.add(torch.from_numpy(chunk))
    drawn = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), blocks.RESAMPLES)
    samples = [values[np.repeat(np.arange(60), draw)].flatten() for draw in drawn]
    resampled = found.resample()
    np.testing.assert_allclose(resampled.mean, [sample.mean() for sample in samples], rtol=1e-6)
    np.testing.assert_allclose(resampled.composite, [score(sample) for sample in samples], rtol=0.01)
    errors = found.errors()
    assert errors is not None
    assert errors[0] == pytest.approx(values.mean(1).std(ddof=1) / 60**0.5, rel=0.1)


def test_blocks_of_many_chunks_say_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "RESAMPLES", 4000)
    few, many = Blocks(), Blocks()
    for chunk in skewed(500, 64):
        many.add(chunk)
    monkeypatch.setattr(blocks, "MOST_BLOCKS", 100)
    for chunk in skewed(500, 64):
        few.add(chunk)
    assert len(many) == 500
    assert len(few) == 63
    assert few.errors() == pytest.approx(many.errors(), rel=0.25)


def test_one_chunk_tells_nothing_of_others() -> None:
    alone = Blocks()
    alone.add(skewed(1, 100)[0])
    assert alone.errors() is None
