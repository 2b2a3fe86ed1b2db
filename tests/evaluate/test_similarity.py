"""Embeddings against each other, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hubquant.errors import EvaluationError
from hubquant.evaluate.plausible import fewest_bits
from hubquant.evaluate.similarity import check_similar, compare_embeddings, spearman


def test_spearman_by_hand() -> None:
    x = np.array([1.0, 2.0, 2.0, 9.0])
    assert spearman(x, x**3) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4: covariance 3 over sqrt(4.5 * 5)
    assert spearman(x, np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(3 / 22.5**0.5)
    assert spearman(np.ones(3), np.ones(3)) == 1
    assert spearman(np.ones(3), np.arange(3.0)) == 0


def test_length_does_not_matter_and_direction_does() -> None:
    source = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    same = compare_embeddings(source, 3 * source, 100, "mean")
    assert (same.n_texts, same.n_pairs, same.n_tokens) == (50, 1225, 100)
    assert (same.cosine, same.minimum, same.spearman) == pytest.approx((1, 1, 1))
    assert same.cosine_error == pytest.approx(0, abs=1e-12)
    turned = source.clone()
    turned[7] = -turned[7]
    one = compare_embeddings(source, turned, 100, "mean")
    assert (one.cosine, one.minimum, one.median) == pytest.approx((48 / 50, -1, 1))
    assert one.cosine_error == pytest.approx(2 / 50)
    assert 0.8 < one.spearman < 1
    assert one.spearman_error > 0


def test_error_is_the_spread_over_samples_of_texts() -> None:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(60):
        source = torch.randn(64, 16, generator=generator)
        noisy = source + 0.5 * torch.randn(64, 16, generator=generator)
        found.append(compare_embeddings(source, noisy, 1, "mean"))
    spread = np.std([each.spearman for each in found], ddof=1)
    assert np.mean([each.spearman_error for each in found]) == pytest.approx(spread, rel=0.3)


def test_of_many_texts_some_are_ranked() -> None:
    source = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    found = compare_embeddings(source, source + 1e-3, 1, "mean")
    assert (found.n_texts, found.n_pairs) == (2000, 1024 * 1023 // 2)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_what_cannot_be_compared(value: float) -> None:
    source = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    broken = source.clone()
    broken[3] = value
    with pytest.raises(EvaluationError, match="the file gives an embedding that is zero or not finite"):
        compare_embeddings(source, broken, 1, "mean")
    with pytest.raises(EvaluationError, match="3 texts are too few"):
        compare_embeddings(source[:3], source[:3], 1, "mean")


def test_another_models_embeddings_are_told() -> None:
    a, b = torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(0))
    found = compare_embeddings(a, b, 1, "mean")
    check_similar("file", fewest_bits(["Q4_K", "F32"]), found)
    with pytest.raises(EvaluationError, match="does not embed as the source model does"):
        check_similar("file", fewest_bits(["Q8_0", "F32"]), found)
