"""Device seconds of the mode "best" on a CUDA device: ``python -m benchmarks.device [--feedback] [TYPE ...]``.

The matrices of an 8 B model (32 layers, 4096 wide, grouped-query attention, vocabulary 128256) in bfloat16, with
importance. Each shape is quantized once to compile and warm up, then timed, and counted as often as the model has it.

``--feedback``: those of rounding with error feedback, for moments that an eighth as many directions explain. The
factors of moments are timed apart. The last column is what ``CHECKED_ROWS`` rows of a matrix lose on the device, as a
share of what they lose with the CPU's kernels: 1 up to rounding.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.feedback import moment_of
from hubquant.quants import TYPES, dequantize, implemented, quantize
from hubquant.quants.feedback.entry import Feedback, weighted_errors
from hubquant.quants.feedback.grids import GRIDS

DEVICE = "cuda"
# shape of each matrix and how many of it: query and output, key and value, gate and up, down, embedding and head
MATRICES = {(4096, 4096): 64, (1024, 4096): 64, (14336, 4096): 64, (4096, 14336): 32, (128256, 4096): 2}
LAYERS = 32
INPUTS = {4096: 3 * LAYERS, 14336: LAYERS}
"""How many of so many columns have a moment of their own."""
CHECKED_ROWS = 64


def timed(work: Callable[[], object]) -> float:
    """Device seconds."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def matrix(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """0.02 · gaussian weights."""
    return (0.02 * torch.randn(rows, n, device=DEVICE, generator=generator)).bfloat16()


def seconds(type: str) -> float:
    """Device seconds for all matrices with log-normal importance."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    total = 0.0
    for (rows, n), count in MATRICES.items():
        x = matrix(rows, n, generator)
        importance = torch.randn(n, device=DEVICE, generator=generator).exp()
        quantize(x, type, importance)
        total += count * timed(lambda: quantize(x, type, importance))  # noqa: B023
    return total


class FedBack:
    """Error feedback with one moment for each number of columns."""

    def __init__(self) -> None:
        generator = torch.Generator(DEVICE).manual_seed(0)
        self._moments = {n: moment_of(n, generator).seen for n in INPUTS}
        self._feedback = {n: Feedback.of(moment) for n, moment in self._moments.items()}  # warms up
        self.factoring = sum(
            count * timed(lambda: Feedback.of(self._moments[n]))  # noqa: B023
            for n, count in INPUTS.items()
        )

    def seconds(self, type: str) -> float:
        """Device seconds for all matrices, without the factors."""
        generator = torch.Generator(DEVICE).manual_seed(0)
        total = 0.0
        for (rows, n), count in MATRICES.items():
            x, feedback = matrix(rows, n, generator), self._feedback[n]
            feedback.quantize(x[:1], type)  # as many rows as fit, filled up with zeros
            total += count * timed(lambda: feedback.quantize(x, type))  # noqa: B023
        return total

    def of_cpu(self, type: str) -> float:
        """The error, as a share of that of the CPU's kernels."""
        n = min(INPUTS)
        x = matrix(CHECKED_ROWS, n, torch.Generator(DEVICE).manual_seed(1))
        here = self._feedback[n].quantize(x, type)
        there = Feedback(self._feedback[n].factor.on_cpu).quantize(x.cpu(), type)
        found = [dequantize(each.cpu(), type, n) for each in (here, there)]
        errors = weighted_errors(x.cpu().float(), found, self._moments[n].cpu())
        return errors[0] / errors[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--feedback", action="store_true")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    known = GRIDS if args.feedback else [t for t, fmt in TYPES.items() if fmt.block_size > 1 and implemented(t)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    fed_back = FedBack() if args.feedback else None
    if fed_back:
        print(f"factors: {fed_back.factoring:.1f} s\n")
    print(f"| type | device seconds | peak GB |{' error, of that of the CPU |' if fed_back else ''}")
    print(f"|---|---|---|{'---|' if fed_back else ''}")
    total = 0.0
    with warnings.catch_warnings(record=True) as unfused:
        warnings.simplefilter("always", RuntimeWarning)
        for type in args.types or known:
            torch.cuda.reset_peak_memory_stats()
            spent = fed_back.seconds(type) if fed_back else seconds(type)
            total += spent
            peak = torch.cuda.max_memory_allocated() / 1e9
            error = f" {fed_back.of_cpu(type):.4f} |" if fed_back else ""
            print(f"| {type} | {spent:.2f} | {peak:.1f} |{error}", flush=True)
    print(f"\nall: {total:.1f} s")
    print("\n".join(str(warning.message) for warning in unfused) or "all primitives were fused by torch.compile")


if __name__ == "__main__":
    main()
