"""What the mode "best" gains: ``python -m benchmarks.errors [TYPE ...]``.

The weighted squared error, with llama.cpp's own weights, divided by that of ``exact`` (llama.cpp's bytes): on gaussian
rows of different scale, with 1 % heavy-tailed outliers and log-normal importance, and on the matrices of the demo
model, whose importance is the mean squared input of each column over a piece of the bundled calibration text. "worst"
is the largest ratio of any single block.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kernels import machine
from benchmarks.weights import CALIBRATION, DEMO, chunks_of, column_importance, linear_layers, loaded
from hubquant.quants import TYPES, dequantize, implemented, needs_importance, quantize
from tests.support.weighting import error_weights

Matrix = tuple[NDArray[np.float32], NDArray[np.float32]]


def heavy_tailed_rows() -> Iterator[Matrix]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4096), dtype=np.float32)
    outliers = rng.random(x.shape) < 0.01
    x[outliers] *= 2 * rng.standard_t(3, outliers.sum()).astype(np.float32)
    x *= 0.02 * np.exp(0.4 * rng.standard_normal((64, 1))).astype(np.float32)
    yield x, np.exp(rng.standard_normal(4096)).astype(np.float32)


def demo_matrices() -> Iterator[Matrix]:
    """Every linear layer's weight with the importance of its columns."""
    model = loaded(DEMO)
    importance = column_importance(model, chunks_of(DEMO, CALIBRATION, count=8))
    for name, layer in linear_layers(model).items():
        yield layer.weight.detach().float().numpy(), importance[name].numpy()


def errors(x: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None, mode: str) -> NDArray[np.float64]:
    """The weighted error of each block."""
    given = None if importance is None else torch.from_numpy(importance)
    data = quantize(torch.from_numpy(x), type, given, mode="best" if mode == "best" else "exact", threads=1)
    found = dequantize(data, type, x.shape[1]).numpy().astype(np.float64)
    squares = error_weights(x, type, importance) * (found - x) ** 2
    return squares.reshape(-1, TYPES[type].block_size).sum(axis=1)


def ratio(matrices: list[Matrix], type: str, weighted: bool) -> tuple[float, float] | None:
    """Best over exact: of the sums over all matrices, and the largest of any block; None when no matrix fits."""
    exact, best = 0.0, 0.0
    worst = 0.0
    for x, importance in matrices:
        if x.shape[1] % TYPES[type].block_size:
            continue
        given = importance if weighted else None
        before, after = errors(x, type, given, "exact"), errors(x, type, given, "best")
        exact, best = exact + before.sum(), best + after.sum()
        worst = max(worst, float((after[before > 0] / before[before > 0]).max()))
    return (best / exact, worst) if exact else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    types = args.types or [t for t, fmt in TYPES.items() if implemented(t) and fmt.block_size > 1]
    kinds = {"heavy-tailed rows": list(heavy_tailed_rows()), "demo model": list(demo_matrices())}
    print(f"{machine()}\n")
    print("| type | importance | " + " | ".join(f"{kind} | worst" for kind in kinds) + " |")
    print("|---|---|" + "---|---|" * len(kinds))
    for type in types:
        for weighted in (True, False):
            if not weighted and needs_importance(type):
                continue
            cells = []
            for matrices in kinds.values():
                found = ratio(matrices, type, weighted)
                cells += [f"{found[0]:.3f}", f"{found[1]:.3f}"] if found else ["–", "–"]
            print(f"| {type} | {'yes' if weighted else 'no'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
