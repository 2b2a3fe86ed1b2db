"""Whether early stopping keeps its promise: ``python -m benchmarks.stopping REPORT.h5 [...] [--trials N]``.

The chunks of a measurement (a report of ``hubquant evaluate run -o``) are taken for the whole population. Each trial
draws chunks of it at random, one after the other, looks as ``hubquant evaluate run --margin`` does, and stops when that
would. A table tells how many chunks that took and how often the intervals hold the population's own mean KLD and
composite score: that should be as often as was asked for. ``lognormal`` multiplies all divergences of a chunk by e to
the power of a normal number, ``Pareto`` by one whose third moment is infinite, each drawn once per population.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from hubquant.evaluate import stopping
from hubquant.evaluate.blocks import Blocks
from hubquant.evaluate.report_file import open_report
from hubquant.evaluate.stopping import looks, relative_half_widths

MOST = 2000  # chunks of a trial


def factors(kind: str, n: int) -> torch.Tensor:
    generator = np.random.default_rng(1)
    drawn = {
        "as measured": np.ones(n),
        "lognormal": np.exp(generator.normal(size=n)),
        "Pareto": 1 + generator.pareto(2.5, size=n),
    }[kind]
    return torch.from_numpy(drawn)


class Population(Blocks):
    """Blocks of which some are taken."""

    def take(self, chosen: Sequence[int]) -> Blocks:
        part = Blocks()
        part._sums = [self._sums[i] for i in chosen]
        part._counts = [self._counts[i] for i in chosen]
        return part


def trial(population: Population, seed: int, confidence: float, margin: float) -> tuple[int, bool, bool, bool]:
    """Chunks taken, whether the margin was reached, whether mean and score were held by their intervals."""
    drawn: Any = np.random.default_rng(seed).integers(len(population), size=MOST).tolist()
    for n in looks(MOST):
        part = population.take(drawn[:n])
        widths = relative_half_widths(part, confidence)
        if max(widths) <= margin or n == MOST:
            break
    held = [
        abs(found - truth) <= width * found
        for found, truth, width in zip(part.estimates(), population.estimates(), widths, strict=True)
    ]
    return n, max(widths) <= margin, held[0], held[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--margins", type=float, nargs="+", default=[0.2, 0.1])
    parser.add_argument("--kinds", nargs="+", default=["as measured", "lognormal", "Pareto"])
    parser.add_argument("--least", type=int, default=stopping.LEAST)
    parser.add_argument("--caution", type=float, default=stopping.CAUTION)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| file | chunks | margin | chunks taken | mean KLD held | composite held |\n|---|---|---:|---:|---:|---:|")
    with patch.multiple(stopping, LEAST=args.least, CAUTION=args.caution):
        for path in args.reports:
            with open_report(path) as report:
                klds = list(report.kld())
            for kind in args.kinds:
                population = Population()
                for kld, factor in zip(klds, factors(kind, len(klds)), strict=True):
                    population.add(kld * factor)
                for margin in args.margins:
                    found = [trial(population, seed, args.confidence, margin) for seed in range(args.trials)]
                    taken, kld_held, composite_held = (mean(each[i] for each in found) for i in (0, 2, 3))
                    cells = [path.stem, kind, f"{margin:g}", f"{taken:.0f}", f"{kld_held:.1%}", f"{composite_held:.1%}"]
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
