"""Q3_K_HIFI: Q3_K of the block without its outliers, and these in half precision."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hubquant.quants import TYPES, dequantize, implemented, quantize
from hubquant.quants.api import Mode
from hubquant.quants.formats import fork_of, lookup
from tests.support.matrices import IMPORTANCE, MATRICES, heavy_tails
from tests.support.weighting import error_weights

F32 = NDArray[np.float32]
HIFI, BASE = lookup("Q3_K_HIFI"), TYPES["Q3_K"].block_bytes
MODES: tuple[Mode, ...] = ("exact", "best")


def parts(data: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.float16], NDArray[np.uint8]]:
    """The Q3_K blocks, the places and values of the outliers [blocks, 8], and their number [blocks]."""
    blocks = data.reshape(-1, HIFI.block_bytes)
    index, outlier, count = (HIFI.offset(name) for name in ("index", "outlier", "count"))
    halves = blocks[:, outlier:count].contiguous().numpy().view(np.float16)
    return blocks[:, :BASE].contiguous(), blocks[:, index:outlier].long().numpy(), halves, blocks[:, count].numpy()


def error(x: F32, type: str, importance: F32 | None, mode: Mode) -> float:
    given = None if importance is None else torch.from_numpy(importance)
    y = dequantize(quantize(torch.from_numpy(x), type, given, mode, threads=1), type, x.shape[1]).numpy()
    return float((error_weights(x, "Q3_K", importance) * (y.astype(np.float64) - x) ** 2).sum())


def test_the_layout_is_that_of_the_fork() -> None:
    assert (HIFI.id, HIFI.block_size, HIFI.block_bytes) == (42, 256, 136)
    assert [HIFI.offset(name) for name in ("hmask", "d", "index", "outlier", "count")] == [0, 108, 110, 118, 134]
    assert fork_of(["F32", "Q3_K_HIFI"]) == "geoffmunn/llama.cpp"
    assert fork_of(TYPES) is None
    assert "Q3_K_HIFI" not in TYPES
    assert implemented("Q3_K_HIFI")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_block_is_sound(matrix: str, mode: Mode) -> None:
    rows, n = 5, 768
    rng = np.random.default_rng(zlib.crc32(matrix.encode()))
    x = MATRICES[matrix](rng, rows, n)
    blocks = np.clip(x.reshape(-1, 256), -65504, 65504)
    for importance in IMPORTANCE.values():
        given = importance(rng, n)
        tensor = None if given is None else torch.from_numpy(given)
        data = quantize(torch.from_numpy(x), "Q3_K_HIFI", tensor, mode)
        base, index, halves, count = parts(data)
        used = halves != 0
        assert (count == used.sum(axis=1)).all()
        assert (used[:, :-1] >= used[:, 1:]).all()  # a reader may stop at the first zero
        assert (np.diff(np.where(used, index, 256 + np.arange(8)), axis=1) > 0).all()
        np.testing.assert_array_equal(halves, np.take_along_axis(blocks, index, axis=1).astype(np.float16))
        kept = x.reshape(-1, 256).copy()
        np.put_along_axis(kept, index, 0, axis=1)
        expected = quantize(torch.from_numpy(kept.reshape(x.shape)), "Q3_K", tensor, mode)
        assert torch.equal(base, expected.reshape(-1, BASE))
        if np.isfinite(dequantize(base, "Q3_K", 256).numpy()).all():  # llama.cpp's own scale may be infinite
            y = dequantize(base, "Q3_K", 256).numpy()
            assert (np.take_along_axis(y, index, axis=1) == 0).all()  # so that adding is replacing
            np.put_along_axis(y, index, halves.astype(np.float32), axis=1)
            np.testing.assert_array_equal(dequantize(data, "Q3_K_HIFI", n).numpy().reshape(-1, 256), y)


def test_unused_places_are_left_alone() -> None:
    """A file of the fork may have fewer than eight outliers, with zeros in the other places."""
    x = torch.from_numpy(heavy_tails(np.random.default_rng(0), 3, 256))
    data = quantize(x, "Q3_K_HIFI")
    q3_k = quantize(x, "Q3_K")
    data[:, :BASE] = q3_k
    data[:, HIFI.offset("index") : HIFI.offset("count")] = 0
    assert torch.equal(dequantize(data, "Q3_K_HIFI", 256), dequantize(q3_k, "Q3_K", 256))
    data[:, HIFI.offset("outlier") : HIFI.offset("count")].view(torch.float16)[:, 0] = 3.5  # at index 0, used once
    assert (dequantize(data, "Q3_K_HIFI", 256)[:, 0] == 3.5).all()


@pytest.mark.parametrize("mode", MODES)
def test_gain(mode: Mode) -> None:
    rng = np.random.default_rng(0)
    x = heavy_tails(rng, 64, 1024)
    importance = np.exp(rng.standard_normal(1024)).astype(np.float32)
    assert error(x, "Q3_K_HIFI", importance, mode) < 0.6 * error(x, "Q3_K", importance, mode)
    assert error(x, "Q3_K_HIFI", None, mode) < 0.5 * error(x, "Q3_K", None, mode)


def test_threads_do_not_change_bytes() -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(heavy_tails(rng, 700, 768))
    importance = torch.from_numpy(np.exp(rng.standard_normal(768)).astype(np.float32))
    one = quantize(x, "Q3_K_HIFI", importance, threads=1)
    assert torch.equal(quantize(x, "Q3_K_HIFI", importance, threads=3), one)
    assert torch.equal(quantize(x[320:330], "Q3_K_HIFI", importance), one[320:330])
