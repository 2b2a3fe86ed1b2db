"""Time of error feedback against llama.cpp's quantizer: ``python -m benchmarks.feedback [TYPE ...]``.

One block of a model (``--hidden`` and ``--ffn`` wide, keys and values a quarter as many rows as queries), gaussian
weights with heavy tails and inputs that an eighth as many directions explain, some far stronger. On one side
ggml_quantize_chunk with importance; on the other all that a file with ``rounding: feedback`` takes beside the
moments: factors, the choice of the damping, rounding without and with feedback, and the comparison of both. CPU seconds
of one thread, for each type as if it were alone; the last line is a run with all of them, which share their factors.
"factors" is their share of the time, which is less where weights have more rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels import cpu_seconds, machine
from hubquant.backends.gguf.feedback import Factors, Journal, rounded_with_feedback
from hubquant.quants import TYPES
from tests.support.llamacpp import ggml_quantize
from tests.support.matrices import heavy_tails

USUAL = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "IQ3_XXS", "Q2_K", "IQ2_XS", "Q5_0", "IQ4_NL", "Q4_0")
GOAL = 15
_SEEN, _HELD_OUT = 24576, 4096  # inputs


@dataclass(frozen=True, eq=False)
class Inputs:
    """The moments of one input of a block."""

    seen: Tensor
    held_out: Tensor

    @property
    def n_matrices(self) -> int:
        return 1

    @property
    def inputs(self) -> Hashable:
        return self

    def of(self, _matrix: int) -> tuple[Tensor, Tensor]:
        return self.seen, self.held_out


@dataclass(frozen=True)
class Weight:
    name: str
    rows: Tensor
    inputs: Inputs


def moment_of(n: int, make: torch.Generator) -> Inputs:
    """On the device of ``make``."""

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=make, device=make.device)

    strengths = torch.logspace(0, -1.5, n // 8, device=make.device).unsqueeze(1) * normal(n // 8, n)
    order = torch.randperm(n, generator=make, device=make.device)
    strengths *= torch.logspace(-0.5, 0.5, n, device=make.device)[order]

    def moment(count: int) -> Tensor:
        total = torch.zeros(n, n, device=make.device)
        for start in range(0, count, 4096):
            rows = normal(min(4096, count - start), n // 8) @ strengths
            rows += 0.1 * normal(*rows.shape)
            total.addmm_(rows.T, rows)
        return total / count

    return Inputs(moment(_SEEN), moment(_HELD_OUT))


def block(hidden: int, ffn: int) -> Iterator[Weight]:
    make, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    layers: dict[str, tuple[int, dict[str, int]]] = {
        "attention": (hidden, {"q": hidden, "k": hidden // 4, "v": hidden // 4}),
        "output": (hidden, {"o": hidden}),
        "ffn": (hidden, {"gate": ffn, "up": ffn}),
        "down": (ffn, {"down": hidden}),
    }
    for n, weights in layers.values():
        inputs = moment_of(n, make)
        for name, rows in weights.items():
            yield Weight(name, torch.from_numpy(heavy_tails(rng, rows, n)), inputs)


def theirs(weights: list[Weight], type: str) -> float:
    def work() -> None:
        for weight in weights:
            ggml_quantize(weight.rows.numpy(), TYPES[type].id, weight.inputs.seen.diagonal().numpy())

    return cpu_seconds(work)


def ours(weights: list[Weight], types: tuple[str, ...]) -> tuple[float, float]:
    """CPU seconds of all, and those of them that factors took."""
    factors, journal, factoring = Factors(1), Journal({}), 0.0
    start = time.process_time()
    for weight in weights:
        for type in types:
            before = time.process_time()
            factors.of(weight.inputs, 0, type)
            factoring += time.process_time() - before
            importance = weight.inputs.seen.diagonal()
            rounded_with_feedback(weight.name, 0, weight.rows, type, importance, weight.inputs, factors, journal, 1)
    return time.process_time() - start, factoring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE", default=USUAL)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--ffn", type=int, default=3072)
    args = parser.parse_args()
    types = tuple(args.types)
    torch.set_num_threads(1)
    weights = list(block(args.hidden, args.ffn))
    n_weights = sum(weight.rows.numel() for weight in weights)
    few = [Weight(each.name, each.rows[:16], each.inputs) for each in weights[:1]]
    print(f"{machine()}; a block of {n_weights / 1e6:.1f} million weights\n")
    print("| type | ggml, M/s | feedback, M/s | times as long | factors |\n|---|---|---|---|---|")
    total = 0.0
    for type in types:
        ours(few, (type,))  # compiles the kernels
        their, (our, factoring) = theirs(weights, type), ours(weights, (type,))
        total += their
        speeds = f"{n_weights / their / 1e6:.1f} | {n_weights / our / 1e6:.2f}"
        mark = "" if our <= GOAL * their else " (!)"
        print(f"| {type} | {speeds} | {our / their:.1f}{mark} | {factoring / our:.0%} |", flush=True)
    if len(types) > 1:
        our, factoring = ours(weights, types)
        speeds = f"{len(types) * n_weights / total / 1e6:.1f} | {len(types) * n_weights / our / 1e6:.2f}"
        print(f"| all | {speeds} | {our / total:.1f} | {factoring / our:.0%} |")


if __name__ == "__main__":
    main()
