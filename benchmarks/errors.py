"""What the mode "best" gains: ``python -m benchmarks.errors [TYPE ...]``.

The weighted squared error, with llama.cpp's own weights, divided by that of ``exact`` (llama.cpp's bytes): on gaussian
rows of different scale, with 1 % heavy-tailed outliers and log-normal importance, and on the matrices of the demo
model, whose importance is the mean squared input of each column over a piece of the bundled calibration text. "worst"
is the largest ratio of any single block.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.kernels import machine
from hubquant.quants import TYPES, dequantize, implemented, quantize
from tests.support.weighting import error_weights

Matrix = tuple[NDArray[np.float32], NDArray[np.float32]]


def heavy_tailed_rows() -> Iterator[Matrix]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4096), dtype=np.float32)
    outliers = rng.random(x.shape) < 0.01
    x[outliers] *= 2 * rng.standard_t(3, outliers.sum()).astype(np.float32)
    x *= 0.02 * np.exp(0.4 * rng.standard_normal((64, 1))).astype(np.float32)
    yield x, np.exp(rng.standard_normal(4096)).astype(np.float32)


def demo_matrices(chunks: int = 8, chunk_size: int = 256) -> list[Matrix]:
    """Every linear layer's weight with the importance of its columns."""
    from hubquant.models import load, load_tokenizer

    folder = Path(str(files("hubquant") / "data" / "demo"))
    text = next(iter(sorted(Path(str(files("hubquant") / "data")).rglob("*.txt")))).read_text()
    ids = load_tokenizer(folder)(text[: 40 * chunks * chunk_size], return_tensors="pt").input_ids[0]
    model = load(folder, device="cpu")
    sums: dict[str, torch.Tensor] = {}

    def watch(name: str, module: torch.nn.Linear) -> None:
        def add(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
            square = inputs[0].flatten(0, -2).square().sum(dim=0)
            sums[name] = sums.get(name, torch.zeros_like(square)) + square

        module.register_forward_pre_hook(add)

    layers = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}
    for name, module in layers.items():
        watch(name, module)
    with torch.inference_mode():
        model(ids[: chunks * chunk_size].view(chunks, chunk_size))
    seen = chunks * chunk_size
    return [(layers[name].weight.detach().float().numpy(), (sums[name] / seen).float().numpy()) for name in layers]


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
    types = args.types or [t for t, fmt in TYPES.items() if implemented(t, "best") and fmt.block_size > 1]
    kinds = {"heavy-tailed rows": list(heavy_tailed_rows()), "demo model": demo_matrices()}
    print(f"{machine()}\n")
    print("| type | importance | " + " | ".join(f"{kind} | worst" for kind in kinds) + " |")
    print("|---|---|" + "---|---|" * len(kinds))
    for type in types:
        for weighted in (True, False):
            cells = []
            for matrices in kinds.values():
                found = ratio(matrices, type, weighted)
                cells += [f"{found[0]:.3f}", f"{found[1]:.3f}"] if found else ["–", "–"]
            print(f"| {type} | {'yes' if weighted else 'no'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
