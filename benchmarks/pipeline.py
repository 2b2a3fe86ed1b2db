"""Wall time, peak memory and speed of every stage on a synthetic Llama of half a billion parameters.

    python -m benchmarks.pipeline [--parameters 500] [--types Q8_0,Q4_K_M,Q2_K] [--keep DIR]

Each stage is one command in a process of its own, so its peak memory is its own. Stages that write files verify them
too. Weights are random: the figures are speeds, not qualities.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.llama import llama_config, make_llama

LAYERS = 12
CHUNKS = 4


@dataclass(frozen=True)
class Measured:
    stage: str
    seconds: float
    peak_bytes: int
    weights: float

    def row(self) -> str:
        speed = f"{self.weights / self.seconds / 1e6:8.1f}" if self.weights else f"{'':8}"
        return f"| {self.stage:<28} | {self.seconds:8.1f} | {self.peak_bytes / 1e6:9.0f} | {speed} |"


def make_model(folder: Path, n_parameters: float) -> int:
    """Of about ``n_parameters``; returns its exact number of weights."""
    hidden = int((n_parameters / LAYERS / 11.5) ** 0.5) // 256 * 256  # 11.5 h² weights a layer with FFN 3 h and GQA 1/4
    return make_llama(folder, llama_config(hidden, LAYERS))


def measure(stage: str, weights: float, *arguments: str) -> Measured:
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "hubquant", *arguments, "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage} failed")
    scale = 1 if sys.platform == "darwin" else 1024
    return Measured(stage, time.monotonic() - start, usage.ru_maxrss * scale, weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=500, help="millions")
    parser.add_argument("--types", default="Q8_0,Q4_K_M,Q2_K")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments.keep or Path(temporary), arguments.parameters * 1e6, arguments.types.split(","))


def run(folder: Path, n_parameters: float, types: list[str]) -> None:
    model, imatrix, baseline = folder / "model", folder / "imatrix.gguf", folder / "baseline.h5"
    # Linux counts the memory of a process that starts another into the peak of the other: this one must stay small.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        n = pool.submit(make_model, model, n_parameters).result()
    chunks = ["--chunks", str(CHUNKS)]
    print(f"{n / 1e6:.0f} M weights, {os.cpu_count()} cores; a forward stage sees {CHUNKS} chunks of 512 tokens\n")
    print(f"| {'stage':<28} | {'wall s':>8} | {'peak MB':>9} | {'Mw/s':>8} |\n|---|---:|---:|---:|", flush=True)

    def show(stage: str, weights: float, *command: str) -> None:
        print(measure(stage, weights, *command).row(), flush=True)

    show("convert to BF16", n, "convert", str(model), "-o", str(folder / "bf16.gguf"))
    show("imatrix", n * CHUNKS, "imatrix", "collect", str(model), "-o", str(imatrix), *chunks)
    for name in types:
        show(
            f"quantize {name}",
            n,
            "quantize",
            str(model),
            "-t",
            name,
            "--imatrix",
            str(imatrix),
            "-o",
            str(folder / name),
        )
    together = [part for name in types for part in ("-t", name)]
    show(
        "quantize all in one pass",
        n * len(types),
        "quantize",
        str(model),
        *together,
        "--imatrix",
        str(imatrix),
        "-o",
        str(folder),
    )
    show("baseline", n * CHUNKS, "evaluate", "baseline", str(model), "-o", str(baseline), *chunks)
    file = folder / f"model-{types[-1]}.gguf"
    show(f"evaluate {types[-1]}", n * CHUNKS, "evaluate", "run", str(file), "--baseline", str(baseline))


if __name__ == "__main__":
    main()
