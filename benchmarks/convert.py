"""Peak memory and speed of ``hubquant convert`` beside those of copying the same bytes.

    python -m benchmarks.convert [--gigabytes 4] [--shards 8] [--rounds 3] [--folder DIR]

The model is a Llama of random bf16 weights, made in a temporary folder (on the disk of DIR) and removed. Both jobs
begin with its files out of the page cache and end when what they wrote is on the disk; they take turns. A conversion's
time includes its start: the interpreter, the libraries, the plan and the check of the tokenizer, which take as long for
a model of no size, converted just before. Ratios are medians over the rounds, of the whole conversion and of what
remains without the start. "CPU s" is what a job takes of the processor, whatever else the machine does.
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
from multiprocessing import get_context
from pathlib import Path
from statistics import median

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


def make_models(folder: Path, small: Path, n_bytes: float, n_shards: int) -> None:
    """A Llama as large as ``n_bytes`` allow, and a small one with the same vocabulary."""
    make_model(folder, width(n_bytes, n_shards), n_shards)
    make_model(small, 256, 1)


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
    from transformers import LlamaConfig

    from hubquant.models.tiny import llama3_tokenizer

    n_layer = 2 * n_shards
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=n_layer,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 256,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
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


def convert(model: Path, target: Path) -> tuple[float, float, int]:
    """Seconds, CPU seconds, and the peak of resident bytes."""
    start = time.monotonic()
    command = [sys.executable, "-m", "hubquant", "convert", str(model), "-o", str(target), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("the conversion failed")
    seconds = time.monotonic() - start + settle([target])
    target.unlink()
    scale = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * scale


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


def run(folder: Path, n_bytes: float, n_shards: int, rounds: int) -> None:
    model, small = folder / "model", folder / "small"
    # Linux counts the memory of a process that starts another into the peak of the other: this one must stay small.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(make_models, model, small, n_bytes, n_shards).result()
    shards = sorted(model.glob("*.safetensors"))
    size = sum(shard.stat().st_size for shard in shards)
    print(f"{size / 1e9:.2f} GB in {len(shards)} shards, {os.cpu_count()} cores, {rounds} rounds\n")
    print("| convert s | of it start s | CPU s | of it start s | peak MiB | copy s | CPU s | MB/s |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    whole, streams, peaks = [], [], []
    for _ in range(rounds):
        start, start_cpu, _ = convert(small, folder / "small.gguf")
        forget(shards)
        seconds, cpu, peak = convert(model, folder / "model.gguf")
        forget(shards)
        plain, plain_cpu = copy(shards, folder / "copy")
        print(
            f"| {seconds:.1f} | {start:.1f} | {cpu:.1f} | {start_cpu:.1f} | {peak / 2**20:.0f} "
            f"| {plain:.1f} | {plain_cpu:.1f} | {size / plain / 1e6:.0f} |",
            flush=True,
        )
        whole.append(plain / seconds)
        streams.append(plain / (seconds - start))
        peaks.append(peak)
    shares = f"{median(streams):.0%} of the copy's speed, {median(whole):.0%} with the start"
    print(f"\npeak {max(peaks) / 1e9:.2f} GB; {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="work on this disk")
    arguments = parser.parse_args()
    n_bytes = arguments.gigabytes * 1e9
    free = shutil.disk_usage(arguments.folder).free
    if free < 3 * n_bytes:
        sys.exit(f"{arguments.folder} has {free / 1e9:.1f} GB free; {3 * n_bytes / 1e9:.1f} GB may be needed")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(Path(folder), n_bytes, arguments.shards, arguments.rounds)


if __name__ == "__main__":
    main()
