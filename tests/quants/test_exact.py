"""Byte identity with ggml_quantize_chunk."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hubquant.quants import TYPES, implemented, quantize
from hubquant.quants.api import Mode
from tests.support.llamacpp import ggml_quantize
from tests.support.matrices import IMPORTANCE, MATRICES, heavy_tails

QUANTIZED = [name for name in TYPES if implemented(name)]
SEARCHED = [name for name in QUANTIZED if TYPES[name].block_size > 1]
NEED_IMPORTANCE = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
WITH_CODEBOOK = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
ABORTING = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")  # ggml aborts where sums of squares leave float32


def assert_same_bytes(x: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None, label: str) -> None:
    expected = ggml_quantize(x, TYPES[type].id, importance)
    weights = None if importance is None else torch.from_numpy(importance)
    found = quantize(torch.from_numpy(x), type, weights, "exact", threads=1).numpy()
    blocks = (found != expected).reshape(-1, TYPES[type].block_bytes).any(axis=1)
    assert not blocks.any(), f"{label}: {blocks.sum()} of {blocks.size} blocks differ, first {blocks.argmax()}"


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    "type",
    [pytest.param(type, marks=pytest.mark.slow if type in WITH_CODEBOOK else ()) for type in QUANTIZED],
)
def test_hard_matrices(type: str, matrix: str) -> None:
    rows, n = 7, 768  # 21 super-blocks: one whole tile and a part
    rng = np.random.default_rng(zlib.crc32(matrix.encode()))
    x = MATRICES[matrix](rng, rows, n)
    for name, make in IMPORTANCE.items():
        importance = make(rng, n)
        if type in ABORTING and matrix == "beyond half":
            continue
        if importance is not None or type not in NEED_IMPORTANCE:
            assert_same_bytes(x, type, importance, f"importance {name}")


@pytest.mark.parametrize("type", ABORTING)
def test_where_ggml_aborts_something_is_written(type: str) -> None:
    x = MATRICES["beyond half"](np.random.default_rng(3), 5, 768)
    assert quantize(torch.from_numpy(x), type, torch.ones(768)).shape == (5, TYPES[type].row_bytes(768))


@pytest.mark.parametrize("type", SEARCHED)
def test_row_lengths(type: str) -> None:
    rng = np.random.default_rng(1)
    size = TYPES[type].block_size
    for n in (size, 5 * size, 2560, 16384):
        if n % size == 0:
            x = heavy_tails(rng, 3, n)
            if type not in NEED_IMPORTANCE:
                assert_same_bytes(x, type, None, f"n {n}")
            assert_same_bytes(x, type, IMPORTANCE["lognormal"](rng, n), f"n {n} with importance")


@pytest.mark.parametrize("type", SEARCHED)
@settings(max_examples=10)
@given(
    rows=st.integers(1, 20),
    blocks=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.floats(-44, 38),
    spread=st.floats(0, 4),
    weighted=st.booleans(),
)
def test_any_shape_and_magnitude(
    type: str, rows: int, blocks: int, seed: int, exponent: float, spread: float, weighted: bool
) -> None:
    weighted = weighted or type in NEED_IMPORTANCE
    if type in ABORTING:
        exponent, spread = exponent / 8, spread / 4
    rng = np.random.default_rng(seed)
    n = blocks * TYPES[type].block_size
    values = rng.standard_normal((rows, n)) * np.exp(spread * rng.standard_normal((rows, n)))
    limit = np.finfo(np.float32).max
    x = np.clip(values * 10.0**exponent, -limit, limit).astype(np.float32)
    assert_same_bytes(x, type, IMPORTANCE["lognormal"](rng, n) if weighted else None, f"{rows}x{n}")


@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "Q6_K"])
def test_threads_and_chunks_do_not_change_bytes(type: str) -> None:
    rng = np.random.default_rng(2)
    x = heavy_tails(rng, 700, 768)  # three chunks
    importance = IMPORTANCE["lognormal"](rng, 768)
    assert importance is not None
    expected = ggml_quantize(x, TYPES[type].id, importance)
    for threads in (1, 3, None):
        found = quantize(torch.from_numpy(x), type, torch.from_numpy(importance), "exact", threads)
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["exact", "best"])
def test_input_types_are_widened_exactly(dtype: torch.dtype, mode: Mode) -> None:
    x = torch.randn(20, 512, generator=torch.Generator().manual_seed(0)).to(dtype)
    for type in ("F16", "BF16", "Q4_0", "Q4_K"):
        assert torch.equal(quantize(x, type, mode=mode), quantize(x.float(), type, mode=mode)), type


def test_views_are_read_as_they_look() -> None:
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(0)).t()
    assert torch.equal(quantize(x, "Q4_K"), quantize(x.contiguous(), "Q4_K"))


def test_no_rows() -> None:
    for type in ("F16", "Q4_K"):
        assert quantize(torch.empty(0, 256), type).shape == (0, TYPES[type].row_bytes(256))
