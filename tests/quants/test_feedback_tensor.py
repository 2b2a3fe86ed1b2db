"""Error feedback in torch, on CPU tensors, against the CPU's kernels."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from hubquant.devices import in_full_float32
from hubquant.quants import dequantize, quantize_with_feedback, weighted_error
from hubquant.quants.feedback.entry import Feedback
from hubquant.quants.feedback.factor import DAMPING, Factor, factorize
from hubquant.quants.feedback.grids import GRIDS
from hubquant.quants.feedback.tensor import scalar
from hubquant.quants.feedback.tensor.scalar import TensorScalar
from hubquant.quants.formats import lookup
from hubquant.quants.traits import TRAITS
from tests.quants.test_feedback import layer, stored

SAME = 0.02
"""Errors of many rows. Those of one row differ by a tenth where a last bit made the first scales others."""


def types(*fast: str) -> list[object]:
    """All, of which those that are not ``fast`` are slow."""
    return [pytest.param(name, marks=[] if name in fast else pytest.mark.slow) for name in GRIDS]


@cache
def factor(n: int) -> Factor:
    return factorize(layer(n)[1], DAMPING)


def method(type: str, n: int, device: str = "cpu", **different: int) -> TensorScalar:
    search = TRAITS[type].search
    assert search is not None
    return TensorScalar(lookup(type), replace(GRIDS[type], **different), search, factor(n), torch.device(device))


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalar, "ROWS", 64)


def more_rows(n: int) -> Tensor:
    return 0.05 * torch.randn(480, n, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("type", types("Q4_K", "Q5_0", "MXFP4", "Q1_0"))
@pytest.mark.parametrize("n", [512, pytest.param(576, marks=pytest.mark.slow)])
def test_bytes_hold_what_was_optimized_with_the_error_of_the_cpu_kernels(type: str, n: int) -> None:
    if n % lookup(type).block_size:
        pytest.skip("blocks do not divide the rows")
    x = more_rows(n)
    data, values = method(type, n).round(x)
    assert torch.equal(dequantize(data, type, n), values)
    moment = layer(n)[1]
    expected = weighted_error(x, stored(x, type, moment)[1], moment)
    assert weighted_error(x, values, moment) == pytest.approx(expected, rel=SAME)


@pytest.mark.parametrize("type", types("Q4_1"))
def test_how_rows_are_parted_does_not_change_them(type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, rounding = more_rows(512)[:60], method(type, 512)
    whole = rounding.quantize(x)
    parts = [rounding.quantize(part) for part in (x[:7], x[7:53], x[53:])]
    assert torch.equal(torch.cat(parts), whole)
    monkeypatch.setattr(scalar, "ROWS", 24)
    assert torch.equal(rounding.quantize(x), whole)


@pytest.mark.slow
@pytest.mark.parametrize("type", GRIDS)
def test_nothing_waits_for_the_device_or_lies_elsewhere(type: str) -> None:
    """The device "meta" knows shapes alone: asking it for a number fails, and so does a tensor of another device."""
    n = 512 if 320 % lookup(type).block_size else 320
    data, values = method(type, n, "meta", sweeps=1).round(torch.empty(48, n, device="meta"))
    assert (data.shape, values.shape) == ((48, lookup(type).row_bytes(n)), (48, n))


@pytest.mark.parametrize("type", types("Q3_K", "MXFP4"))
def test_hard_rows(type: str) -> None:
    """As those of tests/quants/test_feedback.py."""
    x = layer(512)[0].clone()
    x[:2] = 0
    x[1, 200] = 1
    x[2] *= 1e30
    x[3] *= 1e-12
    x[4] *= 1e-40
    x[5] = 0.25
    rounding = method(type, 512)
    data = rounding.quantize(x)
    values = dequantize(data, type, 512)
    assert torch.isfinite(values).all()
    assert (values[0] == 0).all() or type == "Q1_0"
    assert torch.equal(data[6:], rounding.quantize(x[6:]))
    assert rounding.quantize(x[:0]).shape == (0, lookup(type).row_bytes(512))
    half = x[6:].bfloat16()
    assert torch.equal(rounding.quantize(half), rounding.quantize(half.float()))


def test_the_row_that_is_not_finite_is_named() -> None:
    x = more_rows(512)
    for value in (torch.nan, torch.inf):
        x[101, 3] = value
        with pytest.raises(ValueError, match="row 101 holds NaN or infinity"):
            method("Q4_K", 512).quantize(x)


def test_products_keep_the_precision_of_float32() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with in_full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("type", GRIDS)
def test_cuda_tensors_stay_on_their_device(type: str) -> None:
    x, moment = more_rows(512), layer(512)[1]
    feedback = Feedback.of(moment.cuda())
    assert feedback.device_for(type).type == "cuda"
    data = feedback.quantize(x.cuda(), type)
    assert data.is_cuda
    errors = [
        weighted_error(x, dequantize(each.cpu(), type, 512), moment)
        for each in (data, quantize_with_feedback(x, type, moment))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=SAME)
    assert torch.equal(feedback.quantize(x[:50].cuda(), type), data[:50])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("type", ["IQ2_XS", "IQ1_S"])
def test_other_types_are_rounded_on_the_cpu(type: str) -> None:
    x, moment = more_rows(512), layer(512)[1]
    feedback = Feedback.of(moment.cuda())
    assert feedback.device_for(type).type == "cpu"
    assert torch.equal(feedback.quantize(x, type), feedback.quantize(x.cuda(), type).cpu())
