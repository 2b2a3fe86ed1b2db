"""What is estimated of tensors from what was measured of them."""

from __future__ import annotations

import math

import pytest
import torch

from hubquant.evaluate.sensitivity import Sensitivities, TensorSensitivity, mean_kld, weighted_squared_error


def tensor(name: str, kld: float, check: float | None = None) -> TensorSensitivity:
    return TensorSensitivity(
        name, "Q3_K", kld, {"Q3_K": 4.0, "Q5_K": 0.25, "Q8_0": 0.01}, "Q5_K" if check else None, check
    )


def test_estimates_grow_as_the_squared_error() -> None:
    found = Sensitivities.of([tensor("a", 0.08), tensor("b", 0.04), tensor("c", 0.0)], 100)
    expected = found.expected()
    assert expected["a"] == pytest.approx({"Q3_K": 0.08, "Q5_K": 0.005, "Q8_0": 0.0002})
    assert 0 < expected["c"]["Q3_K"] < 0.001  # what the text did not reach is not free
    assert found.correlation is None


def test_the_correlation_is_that_of_logarithms() -> None:
    klds = [0.01, 0.1, 1.0]
    exact = Sensitivities.of([tensor(str(x), x, x / 16) for x in klds], 100)
    assert exact.correlation == pytest.approx(1)
    worse = Sensitivities.of([tensor(str(x), x, y) for x, y in zip(klds, (0.1, 0.01, 0.2), strict=True)], 100)
    assert worse.correlation is not None
    assert -1 < worse.correlation < 0.9


def test_a_tensor_without_error_does_nothing() -> None:
    assert TensorSensitivity("zeros", "Q3_K", 0.0, {"Q3_K": 0.0, "Q4_K": 0.0}).expected("Q4_K", 0.1) == 0


def test_divergences_and_errors() -> None:
    base = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]]).log()
    assert mean_kld(base + 3, base) == pytest.approx(0, abs=1e-15)
    even = math.fsum([0.5 * math.log(1.5), 0.5 * math.log(0.75), 0.8 * math.log(2.4), 0.2 * math.log(0.3)]) / 2
    assert mean_kld(torch.zeros(2, 3), base) == pytest.approx(even, rel=1e-6)
    x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert weighted_squared_error(x, y, None) == 14
    assert weighted_squared_error(x, y, torch.tensor([2.0, 0.5])) == 13
