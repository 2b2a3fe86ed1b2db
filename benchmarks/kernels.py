"""Speed of the quantizers against llama.cpp's, in one process: ``python -m benchmarks.kernels [TYPE ...]``.

Both sides run on one thread, in turns, on the same matrix (gaussian with heavy tails, rows of 4096, log-normal
importance). The unit is million weights per CPU-second, which other processes on the machine disturb least; the ratio
is the median over the rounds. "same" is the share of blocks in which ``exact`` has llama.cpp's bytes. Geometric means
with importance leave out the types whose llama.cpp quantizer ignores it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import torch
from numpy.typing import NDArray

from hubquant.quants import TYPES, implemented, needs_importance, quantize
from hubquant.quants.api import Mode
from hubquant.quants.traits import TRAITS
from tests.support.llamacpp import ggml_quantize
from tests.support.matrices import heavy_tails

N = 4096
IGNORES_IMPORTANCE = {name for name, traits in TRAITS.items() if traits.exact and traits.exact.weighted is None}
MODES: tuple[Mode, ...] = ("exact", "best")


@dataclass(frozen=True)
class Speed:
    """One line of the table; speeds in million weights per CPU-second, ``ours`` and ``ratios`` by mode."""

    theirs: float
    ours: Mapping[Mode, float]
    ratios: Mapping[Mode, float]
    same: float


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(type: str, weighted: bool, rounds: int, seconds: float) -> Speed:
    fmt = TYPES[type]
    rng = np.random.default_rng(0)
    importance = np.exp(rng.standard_normal(N)).astype(np.float32) if weighted else None
    weights = None if importance is None else torch.from_numpy(importance)
    sample = heavy_tails(rng, 16, N)
    for mode in MODES:
        quantize(torch.from_numpy(sample), type, weights, mode, threads=1)  # compiles the kernel
    rows = max(16, int(seconds / cpu_seconds(lambda: ggml_quantize(sample, fmt.id, importance)) * 16) // 16 * 16)
    x = heavy_tails(rng, min(rows, 4096), N)
    tensor = torch.from_numpy(x)
    theirs: list[float] = []
    ours: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        theirs.append(cpu_seconds(lambda: ggml_quantize(x, fmt.id, importance)))
        for mode, times in ours.items():
            times.append(cpu_seconds(partial(quantize, tensor, type, weights, mode, threads=1)))
    return Speed(
        x.size / median(theirs) / 1e6,
        {mode: x.size / median(times) / 1e6 for mode, times in ours.items()},
        {mode: median(a / b for a, b in zip(theirs, times, strict=True)) for mode, times in ours.items()},
        identical_blocks(sample, type, importance),
    )


def identical_blocks(x: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None) -> float:
    """The share of ``exact``."""
    weights = None if importance is None else torch.from_numpy(importance)
    found = quantize(torch.from_numpy(x), type, weights, "exact", threads=1).numpy()
    differ = (found != ggml_quantize(x, TYPES[type].id, importance)).reshape(-1, TYPES[type].block_bytes)
    return 1 - float(differ.any(axis=1).mean())


def scaling(mode: Mode = "best", type: str = "Q4_K", rows: int = 4096) -> float:
    """Wall time of one thread over that of two; a busy machine makes it smaller."""
    x = torch.from_numpy(heavy_tails(np.random.default_rng(0), rows, N))

    def seconds(threads: int) -> float:
        start = time.perf_counter()
        quantize(x, type, torch.ones(N), mode, threads)
        return time.perf_counter() - start

    seconds(1)
    return median(seconds(1) / seconds(2) for _ in range(5))


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model} ({platform.machine()}), torch {torch.__version__}, numpy {np.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU seconds of one ggml call (default 0.1)")
    args = parser.parse_args()
    types = args.types or [t for t, fmt in TYPES.items() if implemented(t) and fmt.block_size > 1]
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print("| type | importance | ggml | exact | ratio | best | ratio | same |\n|---|---|---|---|---|---|---|---|")
    found: list[tuple[str, bool, Speed]] = []
    for type in types:
        for weighted in (True, False):
            if not weighted and needs_importance(type):
                continue
            s = measure(type, weighted, args.rounds, args.seconds)
            found.append((type, weighted, s))
            cells = [f"{s.ours[mode]:.3g} | {s.ratios[mode]:.1f}" for mode in MODES]
            label = "yes" if weighted else "no"
            print(f"| {type} | {label} | {s.theirs:.3g} | {' | '.join(cells)} | {s.same:.2%} |", flush=True)
    for mode in MODES:
        for weighted in (True, False):
            ratios = [
                s.ratios[mode]
                for type, with_importance, s in found
                if with_importance == weighted and not (weighted and type in IGNORES_IMPORTANCE)
            ]
            if ratios:
                label = "with" if weighted else "without"
                print(f"\ngeometric mean of {mode} {label} importance: {geometric_mean(ratios):.1f}", end="")
    print(f"\n\nQ4_K on two threads: {scaling():.2f} times as fast as on one (wall time)")


if __name__ == "__main__":
    main()
