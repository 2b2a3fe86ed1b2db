from __future__ import annotations

import pytest
import torch

from hubquant.quants import TYPES, dequantize, quantize
from hubquant.quants.compared import row_sums
from hubquant.quants.formats import Bits
from hubquant.quants.layout import CODES
from hubquant.quants.traits import TRAITS

ROWS, N = 5, 512
OF_BITS = [
    name
    for name, traits in TRAITS.items()
    if traits.levels and name in TYPES and all(isinstance(f, Bits) for f in TYPES[name].fields if f.name in CODES)
]
WRITTEN = [name for name, traits in TRAITS.items() if traits.best]


def weights() -> torch.Tensor:
    return torch.randn(ROWS, N, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, ROWS)[:, None]


def stored(x: torch.Tensor, type: str) -> torch.Tensor:
    return quantize(x, type, torch.ones(N))


def at_code(data: torch.Tensor, type: str, code: int) -> torch.Tensor:
    """What ``data`` holds with this code in the place of all."""
    fmt = TYPES[type]
    blocks = data.reshape(-1, fmt.block_bytes).clone()
    for field in fmt.fields:
        if isinstance(field, Bits):
            part = (code >> field.shift) & ((1 << field.bits) - 1)
            byte = sum(part << bit for bit in range(0, 8, field.bits))
            start = fmt.offset(field.name)
            blocks[:, start : start + field.nbytes(fmt.block_size)] = byte
    return dequantize(blocks.view(len(data), -1), type, N)


@pytest.mark.parametrize("type", WRITTEN)
def test_sums_are_those_of_the_values(type: str) -> None:
    x = weights()
    x[:, ::7] = 0
    data = stored(x, type)
    y = dequantize(data, type, N)
    sums, a, b = row_sums(x, y, data, type), x.double(), y.double()
    for found, expected in (
        (sums.error, (a - b).square().sum(1)),
        (sums.power, a.square().sum(1)),
        (sums.along, (a * b).sum(1)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert sums.agreeing.tolist() == (x.sign() * y.sign()).sum(1).tolist()
    assert sums.filled.tolist() == (x != 0).sum(1).tolist()
    assert sums.peak.tolist() == x.abs().amax(1).tolist()


@pytest.mark.parametrize("type", OF_BITS)
def test_the_nearest_is_the_nearest_of_all_codes(type: str) -> None:
    x = weights()
    data = stored(x, type)
    n_codes = 1 << sum(field.bits for field in TYPES[type].fields if isinstance(field, Bits))
    levels = torch.stack([at_code(data, type, code) for code in range(n_codes)]).double()
    if type == "TQ2_0":
        levels = levels[:3]  # llama.cpp has no fourth
    sums = row_sums(x, dequantize(data, type, N), data, type)
    torch.testing.assert_close(sums.least, (x - levels).abs().amin(0).square().sum(1), rtol=1e-4, atol=0)
    steps = (levels.amax(0) - levels.amin(0)) / (len(levels) - 1)
    torch.testing.assert_close(sums.between, steps.square().sum(1) / 12, rtol=1e-4, atol=0)


def test_weights_whose_squares_overflow_beside_small_ones() -> None:
    x = weights()
    x[2] *= 1e25
    data = stored(x, "MXFP4")
    y = dequantize(data, "MXFP4", N)
    sums = row_sums(x, y, data, "MXFP4")
    torch.testing.assert_close(sums.error, (x.double() - y.double()).square().sum(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(sums.power, x.double().square().sum(1), rtol=1e-5, atol=0)
    assert sums.error[2] > 1e40


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_finite(value: float) -> None:
    x = weights()
    data = stored(x, "Q8_0")
    y = dequantize(data, "Q8_0", N)
    y[3, 17] = value
    assert row_sums(x, y, data, "Q8_0").error.isfinite().tolist() == [True, True, True, False, True]
