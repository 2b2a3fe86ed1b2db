from __future__ import annotations

import pytest

from hubquant.units import counted, measured, number, share, size


def test_sizes() -> None:
    sizes = (0, 999, 1000, 7_654_321, 4_900_000_000, 999_400_000, 999_600_000, 45 << 30, 5e15)
    assert [size(n_bytes) for n_bytes in sizes] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "7.65 MB",
        "4.90 GB",
        "999 MB",
        "1.00 GB",
        "48.3 GB",
        "5000 TB",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0283, "0.0283"), (1.3931, "1.39"), (0.0000123, "0.0000123"), (0.0, "0"), (123.4, "123")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.018523, 0.00031, "0.0185 ± 0.0003"),
        (0.0000417, 0.00000083, "0.000042 ± 0.000001"),
        (1.00921, 0.00094, "1.0092 ± 0.0009"),
        (1.00921, 0.0, "1.0092"),
        (0.0283, 0.0, "0.028300"),
        (0.03, 0.2, "0.030 ± 0.200"),
        (0.0, 0.0, "0.000000"),
        (2e-7, 1e-8, "0.000000"),
        (25.49, 3.1, "25 ± 3"),
    ],
)
def test_an_error_sets_the_digits(value: float, error: float, text: str) -> None:
    assert measured(value, error) == text


def test_shares() -> None:
    assert share(0.98223, 0.0005) == "98.22 ± 0.05 %"


def test_counts_agree_with_their_nouns() -> None:
    assert [counted(n, "tensor") for n in (0, 1, 2, 1000)] == ["0 tensors", "1 tensor", "2 tensors", "1,000 tensors"]
    assert [counted(n, "chunk is", "chunks are") for n in (1, 3)] == ["1 chunk is", "3 chunks are"]
