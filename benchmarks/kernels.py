"""Speed of the quantizers against llama.cpp's, in one process: ``python -m benchmarks.kernels [TYPE ...]``.

Both sides run on one thread, in turns, on the same matrix (gaussian with heavy tails, rows of 4096, log-normal
importance). The unit is million weights per CPU-second, which other processes on the machine disturb least; the ratio
is the median over the rounds. "same" is the share of blocks with identical bytes.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import torch
from numpy.typing import NDArray

from hubquant.quants import TYPES, implemented, quantize
from hubquant.quants.api import Mode
from tests.support.llamacpp import ggml_quantize
from tests.support.matrices import heavy_tails

N = 4096
NEEDS_IMPORTANCE = {"IQ2_XXS", "IQ2_XS", "IQ1_S"}
IGNORES_IMPORTANCE = {"Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"}


@dataclass(frozen=True)
class Speed:
    """One line of the table; speeds in million weights per CPU-second."""

    type: str
    weighted: bool
    ours: float
    theirs: float
    ratio: float
    same: float


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(type: str, weighted: bool, mode: Mode, rounds: int, seconds: float) -> Speed:
    fmt = TYPES[type]
    rng = np.random.default_rng(0)
    importance = np.exp(rng.standard_normal(N)).astype(np.float32) if weighted else None
    rows = 16
    x = heavy_tails(rng, rows, N)
    same = identical_blocks(x, type, importance, mode)
    rows = max(16, int(seconds / cpu_seconds(lambda: ggml_quantize(x, fmt.id, importance)) * rows) // 16 * 16)
    x = heavy_tails(rng, min(rows, 4096), N)
    tensor = torch.from_numpy(x)
    weights = None if importance is None else torch.from_numpy(importance)
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(cpu_seconds(lambda: ggml_quantize(x, fmt.id, importance)))
        ours.append(cpu_seconds(lambda: quantize(tensor, type, weights, mode, threads=1)))
    ratio = median(a / b for a, b in zip(theirs, ours, strict=True))
    return Speed(type, weighted, x.size / median(ours) / 1e6, x.size / median(theirs) / 1e6, ratio, same)


def identical_blocks(x: NDArray[np.float32], type: str, importance: NDArray[np.float32] | None, mode: Mode) -> float:
    weights = None if importance is None else torch.from_numpy(importance)
    found = quantize(torch.from_numpy(x), type, weights, mode, threads=1).numpy()
    differ = (found != ggml_quantize(x, TYPES[type].id, importance)).reshape(-1, TYPES[type].block_bytes)
    return 1 - float(differ.any(axis=1).mean())


def machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{model} ({platform.machine()}), torch {torch.__version__}, numpy {np.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--mode", choices=("exact", "best"), default="exact")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="CPU seconds of one ggml call (default 0.1)")
    args = parser.parse_args()
    types = args.types or [t for t, fmt in TYPES.items() if implemented(t) and fmt.block_size > 1]
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print("| type | importance | hubquant Mw/s | ggml Mw/s | ratio | same |\n|---|---|---|---|---|---|")
    speeds = []
    for type in types:
        for weighted in (False, True):
            if (type in NEEDS_IMPORTANCE and not weighted) or (
                type in IGNORES_IMPORTANCE and weighted and args.mode == "exact"
            ):
                continue
            s = measure(type, weighted, args.mode, args.rounds, args.seconds)
            speeds.append(s)
            label = "yes" if weighted else "no"
            print(f"| {type} | {label} | {s.ours:.1f} | {s.theirs:.1f} | {s.ratio:.1f} | {s.same:.2%} |", flush=True)
    for weighted in (False, True):
        ratios = [s.ratio for s in speeds if s.weighted == weighted]
        if ratios:
            print(f"\ngeometric mean {'with' if weighted else 'without'} importance: {geometric_mean(ratios):.1f}")


if __name__ == "__main__":
    main()
