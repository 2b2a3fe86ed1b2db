"""Matrices that quantizers find hard, and importance vectors, each a function of (generator, shape)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Maker = Callable[[np.random.Generator, int, int], F32]


def heavy_tails(rng: np.random.Generator, rows: int, n: int) -> F32:
    tails = np.where(rng.random((rows, n)) < 0.02, 3 * rng.standard_t(2, (rows, n)), 1.0)
    return (0.02 * tails * rng.standard_normal((rows, n))).astype(np.float32)


def _uniform(rng: np.random.Generator, rows: int, n: int, low: float, high: float) -> F32:
    return rng.uniform(low, high, (rows, n)).astype(np.float32)


def _zero_sub_blocks(rng: np.random.Generator, rows: int, n: int) -> F32:
    x = heavy_tails(rng, rows, n).reshape(rows, -1, 16)
    x[rng.random(x.shape[:2]) < 0.4] = 0
    return x.reshape(rows, n)


def _zero_blocks(rng: np.random.Generator, rows: int, n: int) -> F32:
    x = heavy_tails(rng, rows, n)
    x[::2, : n // 2] = 0
    return x


def _spikes(rng: np.random.Generator, rows: int, n: int) -> F32:
    x = np.zeros((rows, n), np.float32)
    x[np.arange(rows), rng.integers(0, n, rows)] = rng.standard_normal(rows)
    return x


def _mixed_magnitudes(rng: np.random.Generator, rows: int, n: int) -> F32:
    powers = rng.uniform(-30, 3, (rows, n // 32)).repeat(32, axis=1)
    return (heavy_tails(rng, rows, n) * 10.0**powers).astype(np.float32)


MATRICES: dict[str, Maker] = {
    "heavy tails": heavy_tails,
    "uniform": lambda rng, rows, n: _uniform(rng, rows, n, -0.5, 0.5),
    "positive": lambda rng, rows, n: _uniform(rng, rows, n, 0, 1),
    "negative": lambda rng, rows, n: _uniform(rng, rows, n, -1, 0),
    "constant rows": lambda rng, rows, n: rng.standard_normal((rows, 1)).astype(np.float32).repeat(n, axis=1),
    "nearly constant": lambda rng, rows, n: _uniform(rng, rows, n, -1.0000005, -0.9999995),
    "two values": lambda rng, rows, n: rng.choice(np.array([-0.3, 0.7], np.float32), (rows, n)),
    "integers": lambda rng, rows, n: rng.integers(-8, 8, (rows, n)).astype(np.float32),
    "zeros of both signs": lambda rng, rows, n: np.copysign(np.float32(0), heavy_tails(rng, rows, n)),
    "zero blocks": _zero_blocks,
    "zero sub-blocks": _zero_sub_blocks,
    "spikes": _spikes,
    "denormals": lambda rng, rows, n: heavy_tails(rng, rows, n) * np.float32(1e-39),
    "smallest denormals": lambda rng, rows, n: (
        rng.integers(-20, 20, (rows, n)).astype(np.float32) * np.float32(1.4e-45)
    ),
    "around 1e-15": lambda rng, rows, n: heavy_tails(rng, rows, n) * np.float32(1e-13),
    "half denormals": lambda rng, rows, n: heavy_tails(rng, rows, n) * np.float32(1e-5),
    "half limits": lambda rng, rows, n: _uniform(rng, rows, n, -1e6, 1e6),
    "beyond half": lambda rng, rows, n: heavy_tails(rng, rows, n) * np.float32(1e20),
    "mixed magnitudes": _mixed_magnitudes,
}

IMPORTANCE: dict[str, Callable[[np.random.Generator, int], F32 | None]] = {
    "none": lambda _rng, _n: None,
    "equal": lambda _rng, n: np.full(n, 0.37, np.float32),
    "lognormal": lambda rng, n: np.exp(rng.standard_normal(n)).astype(np.float32),
    "wide": lambda rng, n: np.exp(6 * rng.standard_normal(n)).astype(np.float32),
    "some zeros": lambda rng, n: (np.exp(rng.standard_normal(n)) * (rng.random(n) < 0.3)).astype(np.float32),
    "all zeros": lambda _rng, n: np.zeros(n, np.float32),
}
