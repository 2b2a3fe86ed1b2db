"""What observing a pipeline costs while it draws, and quantizing a denoiser beside stable-diffusion.cpp's convert.

    python -m benchmarks.diffusion hooks [--rounds 5] [--width 2048]
    python -m benchmarks.diffusion types [--gigabytes 0.3] [--types Q8_0,Q4_0,Q4_K,Q2_K]
    python -m benchmarks.diffusion memory [--gigabytes 3] [--limit 2]

``hooks`` draws with a Flux of random weights by turns alone and observed, in one process: the ratio of CPU
seconds. ``types`` writes a synthetic Flux denoiser in each type by ``hubquant quantize`` (exact and pure, which gives
stable-diffusion.cpp's bytes, and best) and by stable-diffusion.cpp itself, on as many threads, each in a process of its
own that does all of it from the file to the file; it needs HUBQUANT_SDCPP, a Python with cyllama. ``memory`` writes
three types of a denoiser that is larger than the memory its process may use, page cache included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.stream import hubquant, limited

HEAD = 128
DOUBLE, SINGLE = 36, 15  # weights of a block, in squares of the width
SDCPP_TYPES = {"Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_K": "Q4_K", "Q2_K": "Q2_K", "Q6_K": "Q6_K"}
FILE_TYPES = {"Q4_K": "Q4_K_S"}  # of hubquant, where a file of one tensor type has another name


def flux_shapes(width: int, n_double: int, n_single: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of a Flux denoiser in its original layout."""

    def module(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", (rows, columns)
        yield f"{name}.bias", (rows,)

    yield from module("img_in", width, 64)
    yield from module("txt_in", width, 4096)
    for name, columns in (("time_in", 256), ("vector_in", 768)):
        yield from module(f"{name}.in_layer", width, columns)
        yield from module(f"{name}.out_layer", width, width)
    for block in range(n_double):
        for stream in ("img", "txt"):
            place = f"double_blocks.{block}.{stream}"
            yield from module(f"{place}_mod.lin", 6 * width, width)
            yield from module(f"{place}_attn.qkv", 3 * width, width)
            yield from module(f"{place}_attn.proj", width, width)
            yield f"{place}_attn.norm.query_norm.scale", (HEAD,)
            yield f"{place}_attn.norm.key_norm.scale", (HEAD,)
            yield from module(f"{place}_mlp.0", 4 * width, width)
            yield from module(f"{place}_mlp.2", width, 4 * width)
    for block in range(n_single):
        place = f"single_blocks.{block}"
        yield from module(f"{place}.linear1", 7 * width, width)
        yield from module(f"{place}.linear2", width, 5 * width)
        yield f"{place}.norm.query_norm.scale", (HEAD,)
        yield f"{place}.norm.key_norm.scale", (HEAD,)
        yield from module(f"{place}.modulation.lin", 3 * width, width)
    yield from module("final_layer.adaLN_modulation.1", 2 * width, width)
    yield from module("final_layer.linear", 64, width)


def make_denoiser(path: Path, n_bytes: float) -> int:
    """A safetensors file of about that size with random bf16 weights, one of which is in memory at a time."""
    width = 3072 if n_bytes > 1e9 else 1024
    n_double = max(2, round(n_bytes / 2 / (2 * DOUBLE * width**2)))
    n_single = max(2, round(n_bytes / 2 / (2 * SINGLE * width**2)))
    shapes, header, at = dict(flux_shapes(width, n_double, n_single)), {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for shape in shapes.values():
            file.write((0.02 * torch.randn(shape)).bfloat16().view(torch.uint8).numpy().tobytes())
    return at


def hooks(rounds: int, width: int) -> None:
    from hubquant.models.diffusion import draw
    from hubquant.observe.pictures import PictureSums
    from hubquant.recipe.pictures import Pictures
    from tests.support.diffusion import make_pipeline

    pipe, settings = make_pipeline("flux", width), Pictures(steps=4, size=256)
    sums = PictureSums(pipe)  # once for all pictures

    def drawn(observed: bool) -> float:
        start = time.process_time()
        if observed:
            with sums.observing():
                sums.settle(draw(pipe, ["a red cat"], [0], settings).pictures[:, 0])
        else:
            draw(pipe, ["a red cat"], [0], settings)
        return time.process_time() - start

    drawn(observed=True)  # kernels and caches are warm afterwards
    pairs = [(drawn(observed=False), drawn(observed=True)) for _ in range(rounds)]
    ratios = sorted(observed / alone for alone, observed in pairs)
    print(f"drawing alone {statistics.median(alone for alone, _ in pairs):.2f} CPU s; observed, as a ratio:")
    print(f"median {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f} in {rounds} rounds")


def types(names: list[str], n_bytes: float, folder: Path) -> None:
    source = folder / "flux.safetensors"
    size = make_denoiser(source, n_bytes)
    print(f"{size / 1e9:.2f} GB of bf16 weights, {os.cpu_count()} cores\n")
    print("| type | stable-diffusion.cpp CPU s | exact CPU s | best CPU s | × exact | × best | s | exact s | best s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in names:
        theirs = by_sdcpp(source, folder / "theirs.gguf", name)
        ours = []
        for mode in ("exact", "best"):
            with tempfile.TemporaryDirectory(dir=folder) as store:
                out = Path(store) / "out.gguf"
                options = ["-t", FILE_TYPES.get(name, name), "--mode", mode, "-o", str(out), "--pure", "--store", store]
                found = hubquant("quantize", str(source), *options, group=None)
            if found.ended != "done":
                raise SystemExit(f"hubquant quantize {found.ended}")
            ours.append((found.cpu_seconds, found.seconds))
        (exact, exact_wall), (best, best_wall) = ours
        print(
            f"| {name} | {theirs[0]:.1f} | {exact:.1f} | {best:.1f} | {theirs[0] / exact:.2f} | {theirs[0] / best:.2f} "
            f"| {theirs[1]:.1f} | {exact_wall:.1f} | {best_wall:.1f} |",
            flush=True,
        )


def by_sdcpp(source: Path, target: Path, name: str) -> tuple[float, float]:
    """CPU and wall seconds of its convert, in a process of its own."""
    from tests.support.sdcpp import converted_by_sdcpp

    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    converted_by_sdcpp(source, target, SDCPP_TYPES[name], n_threads=os.cpu_count() or 1, timeout=None)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    target.unlink()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def memory(n_bytes: float, limit: int, folder: Path) -> None:
    source = folder / "flux.safetensors"
    size = make_denoiser(source, n_bytes)
    with limited(limit) as group, tempfile.TemporaryDirectory(dir=folder) as store:
        held = f"limited to {limit / 1e9:.2f} GB" if group else "not limited"
        options = ["-t", "Q8_0,Q4_K_M,Q2_K", "-o", str(folder / "out"), "--store", store]
        found = hubquant("quantize", str(source), *options, group=group)
    print(
        f"{size / 1e9:.2f} GB of weights in three types at once, {held}: {found.ended}, peak {found.peak / 1e6:.0f} MB"
    )
    print(f"{found.seconds:.0f} s, {found.cpu_seconds:.0f} CPU s, {found.read / 1e9:.2f} GB read")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("hooks", "types", "memory"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=2048, help="of the denoiser that is observed")
    parser.add_argument("--types", default="Q8_0,Q4_0,Q4_K,Q2_K")
    parser.add_argument("--gigabytes", type=float)
    parser.add_argument("--limit", type=float, default=2, help="GB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="work on this disk")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.what == "hooks":
            hooks(arguments.rounds, arguments.width)
        elif arguments.what == "types":
            types(arguments.types.split(","), (arguments.gigabytes or 0.3) * 1e9, Path(folder))
        else:
            memory((arguments.gigabytes or 3) * 1e9, int(arguments.limit * 1e9), Path(folder))


if __name__ == "__main__":
    main()
