"""The torch search, on CPU tensors, against the CPU's kernels of the mode "best"."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hubquant.quants import TYPES, dequantize, needs_importance, quantize
from hubquant.quants.layout import members
from hubquant.quants.packing import pack
from hubquant.quants.tensor import fusion
from hubquant.quants.tensor import quantize_tensor as search_tensor
from hubquant.quants.traits import TRAITS
from tests.support.matrices import IMPORTANCE, MATRICES, heavy_tails
from tests.support.weighting import error_weights

F32 = NDArray[np.float32]
SEARCHES = [name for name, traits in TRAITS.items() if traits.search]
LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def weighted_error(data: torch.Tensor, type: str, x: F32, importance: F32 | None) -> float:
    y = dequantize(data, type, x.shape[1]).numpy()
    assert np.isfinite(y).all()
    return float((error_weights(x, type, importance) * (y.astype(np.float64) - x) ** 2).sum())


def quantize_tensor(x: torch.Tensor, type: str, importance: torch.Tensor | None) -> torch.Tensor:
    search = TRAITS[type].search
    assert search is not None
    return search_tensor(x, TYPES[type], search, importance)


def tensor(values: F32 | None) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values)


@pytest.mark.parametrize("type", LEGACY)
def test_bytes_of_legacy_types_are_the_cpu_kernels(type: str) -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(heavy_tails(rng, 65, 512))
    for importance in (None, tensor(IMPORTANCE["lognormal"](rng, 512))):
        found = quantize_tensor(x, type, importance)
        assert torch.equal(found, quantize(x, type, importance, threads=1))


@pytest.mark.parametrize("type", SEARCHES)
def test_error_is_not_above_the_cpu_kernels(type: str) -> None:
    rng = np.random.default_rng(2)
    x = heavy_tails(rng, 6 if type.startswith(("IQ1", "IQ2", "IQ3")) else 32, 1024)
    for importance in (IMPORTANCE["lognormal"](rng, 1024), None):
        if importance is None and needs_importance(type):
            continue
        found = quantize_tensor(torch.from_numpy(x), type, tensor(importance))
        expected = quantize(torch.from_numpy(x), type, tensor(importance), threads=1)
        assert weighted_error(found, type, x, importance) <= 1.001 * weighted_error(expected, type, x, importance)


@pytest.mark.parametrize("type", SEARCHES)
def test_hard_rows_are_finite_and_zeros_stay(type: str) -> None:
    n = 256
    rng = np.random.default_rng(5)
    x = np.concatenate([make(rng, 1, n) for make in MATRICES.values()])
    for kind in ("none", "wide", "some zeros", "all zeros"):
        data = quantize_tensor(torch.from_numpy(x), type, tensor(IMPORTANCE[kind](rng, n)))
        y = dequantize(data, type, n).numpy()
        assert np.isfinite(y).all()
        zero = (x == 0).reshape(-1, TYPES[type].block_size).all(axis=1)
        assert (y.reshape(zero.size, -1)[zero] == 0).all()


@pytest.mark.parametrize("type", ["Q4_K", "Q5_0"])
def test_pieces_do_not_change_bytes(type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(heavy_tails(np.random.default_rng(3), 9, 512))
    whole = quantize_tensor(x, type, None)
    monkeypatch.setattr(fusion, "TEMPORARY", 8192)
    monkeypatch.setattr("hubquant.quants.tensor._CHUNK", 1024)
    assert torch.equal(quantize_tensor(x, type, None), whole)


def test_the_row_that_is_not_finite_is_named() -> None:
    x = torch.zeros(700, 256)
    x[600, 3] = torch.inf
    with pytest.raises(ValueError, match="row 600"):
        quantize_tensor(x, "Q4_K", None)


@pytest.mark.parametrize("type", ["Q4_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "Q6_K", "Q1_0", "Q2_0", "NVFP4"])
def test_packing_is_the_inverse_of_the_layout(type: str) -> None:
    fmt = TYPES[type]
    blocks = torch.randint(0, 256, (7, fmt.block_bytes), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    parts = members(blocks, fmt)
    planes = [field for field in fmt.fields if field.name not in {"d", "dmin", "m", "scales", "e"}]
    codes = sum(parts[plane.name].int() << plane.shift for plane in planes)
    assert torch.equal(pack(fmt, parts, codes), blocks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("type", SEARCHES)
def test_cuda_tensors_stay_on_their_device(type: str) -> None:
    rng = np.random.default_rng(4)
    x = heavy_tails(rng, 65, 1024)
    importance = IMPORTANCE["lognormal"](rng, 1024)
    data = quantize(torch.from_numpy(x).cuda(), type, tensor(importance), mode="best")
    assert data.is_cuda
    expected = quantize_tensor(torch.from_numpy(x), type, tensor(importance))
    limit = 1.001 * weighted_error(expected, type, x, importance)
    assert weighted_error(data.cpu(), type, x, importance) <= limit
