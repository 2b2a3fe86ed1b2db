"""Device seconds of the mode "best" on a CUDA device: ``python -m benchmarks.device [TYPE ...]``.

The matrices of an 8 B model (32 layers, 4096 wide, grouped-query attention, vocabulary 128256) in bfloat16, with
importance. Each shape is quantized once to compile and warm up, then timed, and counted as often as the model has it.
"""

from __future__ import annotations

import argparse
import warnings

import torch

from hubquant.quants import TYPES, implemented, quantize

# shape of each matrix and how many of it: query and output, key and value, gate and up, down, embedding and head
MATRICES = {(4096, 4096): 64, (1024, 4096): 64, (14336, 4096): 64, (4096, 14336): 32, (128256, 4096): 2}


def seconds(type: str) -> float:
    """Device seconds for all matrices; 0.02 · gaussian weights and log-normal importance."""
    generator = torch.Generator("cuda").manual_seed(0)
    total = 0.0
    for (rows, n), count in MATRICES.items():
        x = (0.02 * torch.randn(rows, n, device="cuda", generator=generator)).bfloat16()
        importance = torch.randn(n, device="cuda", generator=generator).exp()
        quantize(x, type, importance)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        start.record()
        quantize(x, type, importance)
        end.record()
        torch.cuda.synchronize()
        total += count * start.elapsed_time(end) / 1000
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    types = args.types or [t for t, fmt in TYPES.items() if fmt.block_size > 1 and implemented(t)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| type | device seconds | peak GB |\n|---|---|---|")
    total = 0.0
    with warnings.catch_warnings(record=True) as unfused:
        warnings.simplefilter("always", RuntimeWarning)
        for type in types:
            torch.cuda.reset_peak_memory_stats()
            spent = seconds(type)
            total += spent
            print(f"| {type} | {spent:.2f} | {torch.cuda.max_memory_allocated() / 1e9:.1f} |", flush=True)
    print(f"\nall: {total:.1f} s")
    print("\n".join(str(warning.message) for warning in unfused) or "all primitives were fused by torch.compile")


if __name__ == "__main__":
    main()
