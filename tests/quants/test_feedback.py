"""Error feedback: a smaller error of the layer's outputs, in bytes that mean what was optimized."""

from __future__ import annotations

from ctypes import c_char_p
from functools import cache

import pytest
import torch
from torch import Tensor

from hubquant.quants import TYPES, dequantize, implemented, quantize, quantize_with_feedback, weighted_error
from hubquant.quants.feedback.damping import chosen_damping
from hubquant.quants.feedback.entry import _method, _with_values
from hubquant.quants.feedback.factor import DAMPING, factorize, turned
from hubquant.quants.formats import FORK_TYPES, lookup
from hubquant.quants.traits import TRAITS
from tests.support.llamacpp import ggml_dequantize, library

ROWS = 40  # not a multiple of 16
BLOCK_TYPES = [name for name in (*TYPES, *FORK_TYPES) if implemented(name) and TRAITS[name].dtype is None]
FAST = ("Q2_K", "Q4_K", "Q4_0", "MXFP4", "IQ3_XXS", "IQ1_S")  # at least one of each way to do it
ENTRIES = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in BLOCK_TYPES]
SMALL_BLOCKS = [name for name in BLOCK_TYPES if 576 % lookup(name).block_size == 0]


@cache
def layer(n: int) -> tuple[Tensor, Tensor]:
    """Weights [rows, n], and the moment of inputs that a tenth as many directions explain, some far stronger."""
    make = torch.Generator().manual_seed(n)
    x = 0.05 * torch.randn(ROWS, n, generator=make)
    directions = torch.randn(n // 10, n, generator=make) * torch.logspace(0, -1.5, n // 10).unsqueeze(1)
    inputs = directions * torch.logspace(-0.5, 0.5, n)[torch.randperm(n, generator=make)]
    return x, inputs.T @ inputs / len(inputs) + 0.02 * torch.diag(torch.rand(n, generator=make) + 0.1)


def stored(x: Tensor, type: str, moment: Tensor) -> tuple[Tensor, Tensor]:
    """The bytes, and the values that were optimized."""
    fmt = lookup(type)
    return _with_values(x, _method(fmt, TRAITS[type], factorize(moment, DAMPING)), fmt, threads=1)


def ggml_values(data: Tensor, type: str, n: int) -> Tensor:
    lib = library()
    lib.ggml_type_name.restype = c_char_p
    name = lib.ggml_type_name(TYPES[type].id).decode()
    return torch.from_numpy(ggml_dequantize(data.numpy(), name, len(data) * n)).view(-1, n)


@pytest.mark.parametrize(("type", "n"), [(t, 512) for t in BLOCK_TYPES] + [(t, 576) for t in SMALL_BLOCKS])
def test_bytes_hold_what_was_optimized_with_a_smaller_error_than_that_of_best(type: str, n: int) -> None:
    x, moment = layer(n)
    data, values = stored(x, type, moment)
    assert torch.equal(dequantize(data, type, n), values)
    if type not in FORK_TYPES:
        assert torch.equal(ggml_values(data, type, n), values)
    best = dequantize(quantize(x, type, moment.diagonal()), type, n)
    assert weighted_error(x, values, moment) < LIMITS.get(type, 0.12) * weighted_error(x, best, moment)


LIMITS = {"IQ1_S": 0.65, "IQ1_M": 0.65, "Q3_K_HIFI": 0.7}
"""Of the error of ``best``, for types whose slabs are quantized by their own search; 0.12 for all others."""


@pytest.mark.parametrize("type", ENTRIES)
def test_any_number_of_threads_gives_the_same_bytes(type: str) -> None:
    x, moment = layer(512)
    x = torch.cat([x, 2 * x, 3 * x, 4 * x])  # more rows than one thread takes at a time
    one, two = (quantize_with_feedback(x, type, moment, threads=threads) for threads in (1, 2))
    assert torch.equal(one, two)
    assert torch.equal(one[:ROWS], quantize_with_feedback(x[:ROWS], type, moment))


@pytest.mark.parametrize("type", ENTRIES)
def test_independent_inputs_are_served_as_well_as_by_best(type: str) -> None:
    x, _ = layer(512)
    moment = torch.eye(512)
    best = dequantize(quantize(x, type, moment.diagonal()), type, 512)
    found = dequantize(quantize_with_feedback(x, type, moment), type, 512)
    assert weighted_error(x, found, moment) < 1.03 * weighted_error(x, best, moment)


@pytest.mark.parametrize("type", ENTRIES)
def test_columns_without_inputs(type: str) -> None:
    x, moment = layer(512)
    alive = torch.ones(512)
    alive[[0, 17, 300]] = 0
    alive[320:352] = 0
    moment = moment * alive * alive.unsqueeze(1)
    found = dequantize(quantize_with_feedback(x, type, moment), type, 512)
    best = dequantize(quantize(x, type, moment.diagonal()), type, 512)
    assert torch.isfinite(found).all()
    assert weighted_error(x, found, moment) < 0.95 * weighted_error(x, best, moment)


@pytest.mark.parametrize("type", ENTRIES)
def test_nothing_is_known_of_the_inputs(type: str) -> None:
    x, _ = layer(512)
    found = dequantize(quantize_with_feedback(x, type, torch.zeros(512, 512)), type, 512)
    assert torch.equal(found, dequantize(quantize_with_feedback(x, type, torch.eye(512)), type, 512))


@pytest.mark.parametrize("type", ENTRIES)
def test_hard_rows(type: str) -> None:
    """Zeros, one weight alone, weights that half precision cannot hold or tell from zero, and no row at all."""
    x, moment = layer(512)
    x = x.clone()
    x[0] = 0
    x[1] = 0
    x[1, 200] = 1
    x[2] *= 1e30
    x[3] *= 1e-12
    x[4] *= 1e-40
    x[5] = 0.25
    found = dequantize(quantize_with_feedback(x, type, moment), type, 512)
    assert not torch.isnan(found).any()
    assert (found[0] == 0).all() or type in ("Q1_0",)
    assert torch.equal(found[6:], dequantize(quantize_with_feedback(x[6:], type, moment), type, 512))
    assert quantize_with_feedback(x[:0], type, moment).shape == (0, lookup(type).row_bytes(512))


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
def test_floats_are_converted(type: str) -> None:
    x, moment = layer(512)
    assert torch.equal(quantize_with_feedback(x, type, moment), quantize(x, type))


def test_half_precision_weights() -> None:
    x, moment = layer(512)
    x = x.bfloat16()
    assert torch.equal(quantize_with_feedback(x, "Q4_K", moment), quantize_with_feedback(x.float(), "Q4_K", moment))


def test_mistakes() -> None:
    x, moment = layer(512)
    with pytest.raises(ValueError, match="multiple of 256"):
        quantize_with_feedback(x[:, :320], "Q4_K", moment)
    with pytest.raises(ValueError, match=r"float matrix \[512, 512\]"):
        quantize_with_feedback(x, "Q4_K", moment[:256])
    with pytest.raises(ValueError, match="non-finite"):
        quantize_with_feedback(x, "Q4_K", moment / 0)
    with pytest.raises(ValueError, match="negative diagonal"):
        quantize_with_feedback(x, "Q4_K", -moment)
    with pytest.raises(ValueError, match="not positive definite"):
        quantize_with_feedback(x, "Q4_K", moment.diagonal().mean() * (2 - torch.eye(512)))
    with pytest.raises(ValueError, match="I8 cannot be written"):
        quantize_with_feedback(x, "I8", moment)
    with pytest.raises(ValueError, match="damping must be positive"):
        quantize_with_feedback(x, "Q4_K", moment, damping=0)
    with pytest.raises(ValueError, match="not two matrices of one shape"):
        weighted_error(x, x[1:], moment)
    x = x.clone()
    x[33, 3] = float("nan")
    with pytest.raises(ValueError, match="row 33 holds NaN or infinity"):
        quantize_with_feedback(x, "Q4_K", moment)


def test_the_error_is_that_of_the_outputs() -> None:
    x, _ = layer(512)
    inputs = torch.randn(2000, 512, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = dequantize(quantize(x, "Q4_K"), "Q4_K", 512)
    lost, power = (inputs @ (x - y).double().T).square().sum(), (inputs @ x.double().T).square().sum()
    assert weighted_error(x, y, inputs.T @ inputs) == pytest.approx(float(lost / power), rel=1e-6)
    assert weighted_error(x, x, torch.zeros(512, 512)) == 0
    assert weighted_error(0 * x, y, torch.eye(512)) == float("inf")


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_that_later_columns_make_up_for_cost_what_the_factor_says(threads: int) -> None:
    """tr(E H Eᵀ) of any errors, summed up over the columns in their order, inside slabs any."""
    n = 1344  # whose last slab is short, and whose products have several tiles
    _, moment = layer(n)
    factor = factorize(moment, DAMPING, threads)
    make = torch.Generator().manual_seed(1)
    order = torch.cat([start + torch.randperm(min(256, n - start), generator=make) for start in range(0, n, 256)])
    made = torch.randn(n, generator=make, dtype=torch.float64)
    passed_on, damped = (
        turned(each, slice(0, n), slice(0, n)).T.double() for each in (factor.passed_on, factor.moment)
    )
    left, total = made.clone(), 0.0  # what is still to be lost when those before are
    for start, (inside, inner) in zip(range(0, n, 256), factor.inside(order), strict=True):
        places = start + torch.from_numpy(inside)
        slab = left[places]
        for i, cost in enumerate(inner.cost[0]):
            error = slab[i].clone()
            total += float(cost * error**2)
            slab -= error * torch.from_numpy(inner.passed_on[0][i]).double()
        left -= left[places] @ passed_on[places]
    assert total == pytest.approx(float(made @ damped @ made), rel=1e-3)
    expected = moment.double() / moment.double().diagonal().mean() + DAMPING * torch.eye(n)
    assert torch.allclose(damped * (1 + DAMPING), expected, atol=1e-5)


def test_threads_find_the_same_factor() -> None:
    _, moment = layer(2048)
    one, three = (factorize(moment, DAMPING, threads) for threads in (1, 3))
    assert torch.equal(one.passed_on, three.passed_on)
    assert all(torch.equal(*pair) for pair in zip(one.slabs, three.slabs, strict=True))


def test_damping_that_is_best_for_what_was_held_out() -> None:
    """The fewer inputs were seen, the more."""
    make = torch.Generator().manual_seed(0)
    mixing = torch.randn(512, 512, generator=make) * torch.logspace(0, -2, 512)
    seen, held_out = (torch.randn(rows, 512, generator=make) @ mixing.T for rows in (16384, 4096))
    other = held_out.T @ held_out
    found = [chosen_damping(seen[:rows].T @ seen[:rows], other) for rows in (16384, 256)]
    assert found[0] < found[1]
    x = 0.05 * torch.randn(64, 512, generator=make)
    few = seen[:256].T @ seen[:256]
    errors = [
        weighted_error(x, dequantize(quantize_with_feedback(x, "Q4_K", few, d), "Q4_K", 512), other) for d in found
    ]
    assert errors[1] < errors[0]


def test_a_moment_that_is_not_quite_one_is_damped_more() -> None:
    x, moment = layer(512)
    bent = moment - 0.2 * moment.diagonal().mean() * torch.eye(512).roll(1, 0).maximum(torch.eye(512).roll(-1, 0))
    with pytest.raises(RuntimeError):
        torch.linalg.cholesky(bent + DAMPING * moment.diagonal().mean() * torch.eye(512))
    found = dequantize(quantize_with_feedback(x, "Q4_K", bent), "Q4_K", 512)
    assert torch.isfinite(found).all()
