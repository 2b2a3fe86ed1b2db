"""Peak memory and speed of ``hubquant convert`` beside those of copying the same bytes.

    python -m benchmarks.convert [--gigabytes 4] [--shards 8] [--rounds 3] [--warm] [--folder DIR]

The model is a Llama of random bf16 weights, made in a temporary folder (on the disk of DIR) and removed. Both jobs
begin with its files out of the page cache (in it, with --warm) and end when what they wrote is on the disk; they take
turns. A conversion's time includes its start, until the file appears: the interpreter, the libraries, the plan, the
check of the tokenizer, which take as long for a model of any size. Ratios are medians over the rounds, of the whole
conversion and of what remains without the start. "CPU s" is what a job takes of the processor, whatever else the
machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil

from benchmarks.llama import llama_config

VOCABULARY = 32768
SHARD = "model-{:05}-of-{:05}.safetensors"


def shapes(hidden: int, n_layer: int) -> Iterator[tuple[int, dict[str, tuple[int, ...]]]]:
    """For each layer its number and tensors, [rows, columns]; the first and the last have those outside the layers."""
    narrow, wide = hidden // 4, 3 * hidden
    for layer in range(n_layer):
        stem = f"model.layers.{layer}"
        tensors: dict[str, tuple[int, ...]] = {
            f"{stem}.input_layernorm.weight": (hidden,),
            f"{stem}.self_attn.q_proj.weight": (hidden, hidden),
            f"{stem}.self_attn.k_proj.weight": (narrow, hidden),
            f"{stem}.self_attn.v_proj.weight": (narrow, hidden),
            f"{stem}.self_attn.o_proj.weight": (hidden, hidden),
            f"{stem}.post_attention_layernorm.weight": (hidden,),
            f"{stem}.mlp.gate_proj.weight": (wide, hidden),
            f"{stem}.mlp.up_proj.weight": (wide, hidden),
            f"{stem}.mlp.down_proj.weight": (hidden, wide),
        }
        if layer == 0:
            tensors["model.embed_tokens.weight"] = (VOCABULARY, hidden)
        if layer == n_layer - 1:
            tensors |= {"model.norm.weight": (hidden,), "lm_head.weight": (VOCABULARY, hidden)}
        yield layer, tensors


def width(n_bytes: float, n_shards: int) -> int:
    """The hidden size of a model of that size."""
    n_layer, step = 2 * n_shards, 256
    hidden = step
    while 2 * (11.5 * n_layer * (hidden + step) ** 2 + 2 * VOCABULARY * (hidden + step)) <= n_bytes:
        hidden += step
    return hidden


def make_model(folder: Path, hidden: int, n_shards: int) -> None:
    """A Llama of random bf16 weights with two layers in each shard."""
    import torch
    from safetensors.torch import save_file

    from hubquant.models.tiny import llama3_tokenizer

    n_layer = 2 * n_shards
    llama_config(hidden, n_layer, VOCABULARY).save_pretrained(folder)
    llama3_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    files: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    for layer, named in shapes(hidden, n_layer):
        tensors |= {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in named.items()}
        if layer % 2:
            file = SHARD.format(layer // 2 + 1, n_shards)
            save_file(tensors, folder / file, metadata={"format": "pt"})
            files |= dict.fromkeys(tensors, file)
            tensors = {}
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def prepare(files: list[Path], *, warm: bool) -> None:
    """Read the files, or forget them."""
    if warm:
        subprocess.run(["cat", *map(str, files)], stdout=subprocess.DEVNULL, check=True)
    else:
        forget(files)


def forget(files: list[Path]) -> None:
    """Drop the files from the page cache, where the system lets one."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def settle(files: list[Path]) -> float:
    """Seconds until the files are on the disk."""
    start = time.monotonic()
    for file in files:
        descriptor = os.open(file, os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.monotonic() - start


@dataclass(frozen=True)
class Conversion:
    """``start`` and ``start_cpu`` are the parts of ``seconds`` and ``cpu`` before the file appears."""

    seconds: float
    cpu: float
    start: float
    start_cpu: float
    peak: int  # resident bytes


def convert(model: Path, target: Path) -> Conversion:
    begin = time.monotonic()
    start = start_cpu = 0.0
    command = [sys.executable, "-m", "hubquant", "convert", str(model), "-o", str(target), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
        if not start and any(target.parent.glob(f".{target.name}.*")):
            start, start_cpu = time.monotonic() - begin, sum(psutil.Process(process.pid).cpu_times()[:2])
        time.sleep(0.01)
    _, status, usage = found
    if status:
        sys.exit("the conversion failed")
    seconds = time.monotonic() - begin + settle([target])
    target.unlink()
    scale = 1 if sys.platform == "darwin" else 1024
    return Conversion(seconds, usage.ru_utime + usage.ru_stime, start, start_cpu, usage.ru_maxrss * scale)


def copy(shards: list[Path], folder: Path) -> tuple[float, float]:
    """Seconds and CPU seconds."""
    folder.mkdir()
    start, busy = time.monotonic(), time.process_time()
    for shard in shards:
        shutil.copyfile(shard, folder / shard.name)
    seconds = time.monotonic() - start + settle([folder / shard.name for shard in shards])
    busy = time.process_time() - busy
    shutil.rmtree(folder)
    return seconds, busy


def run(folder: Path, n_bytes: float, n_shards: int, rounds: int, *, warm: bool) -> None:
    model = folder / "model"
    # Linux counts the memory of a process that starts another into the peak of the other: this one must stay small.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(make_model, model, width(n_bytes, n_shards), n_shards).result()
    shards = sorted(model.glob("*.safetensors"))
    size = sum(shard.stat().st_size for shard in shards)
    print(f"{size / 1e9:.2f} GB in {len(shards)} shards, {os.cpu_count()} cores, {rounds} rounds\n")
    print("| convert s | of it start s | CPU s | of it start s | peak MB | copy s | CPU s | MB/s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    whole, streams, peaks = [], [], []
    for _ in range(rounds):
        prepare(shards, warm=warm)
        made = convert(model, folder / "model.gguf")
        prepare(shards, warm=warm)
        plain, plain_cpu = copy(shards, folder / "copy")
        print(
            f"| {made.seconds:.1f} | {made.start:.1f} | {made.cpu:.1f} | {made.start_cpu:.1f} "
            f"| {made.peak / 1e6:.0f} | {plain:.1f} | {plain_cpu:.1f} | {size / plain / 1e6:.0f} |",
            flush=True,
        )
        whole.append(plain / made.seconds)
        streams.append(plain / (made.seconds - made.start))
        peaks.append(made.peak)
    shares = f"{median(streams):.0%} of the copy's speed, {median(whole):.0%} with the start"
    print(f"\npeak {max(peaks) / 1e9:.2f} GB; {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="begin with the files in the page cache")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="work on this disk")
    arguments = parser.parse_args()
    n_bytes = arguments.gigabytes * 1e9
    free = shutil.disk_usage(arguments.folder).free
    if free < 3 * n_bytes:
        sys.exit(f"{arguments.folder} has {free / 1e9:.1f} GB free; {3 * n_bytes / 1e9:.1f} GB may be needed")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(Path(folder), n_bytes, arguments.shards, arguments.rounds, warm=arguments.warm)


if __name__ == "__main__":
    main()
