"""Collecting an importance matrix: speed of the forward pass alone, with hooks, and with each way to offload.

    python -m benchmarks.imatrix [MODEL] [--text FILE] [--chunks 16] [--rounds 3] [--llama-imatrix PATH]

Forward passes with and without hooks take turns in one process, the ratio is that of the medians. Then each way to
offload collects in a process of its own, start included, and tells its peak of resident memory; "disk" may keep a
quarter of the weights in memory. With ``--llama-imatrix`` that program and hubquant take turns at the same text and
weights, start included: processor seconds and peaks.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from hubquant.calibration import build
from hubquant.commands import flags
from hubquant.models import load_tokenizer
from hubquant.observe import collect
from hubquant.observe.collector import batch_chunks
from hubquant.recipe.schema import TextSource
from hubquant.sources.checkpoint import load_folder
from hubquant.sources.open import open_component

WAYS = ("none", "disk", "stream")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_process(model: str, text: TextSource, n_chunks: int, rounds: int) -> None:
    component = open_component(flags.model(model))
    source, conversion = component.source, component.conversion
    chunks = build([text], load_tokenizer(source.folder), 512, n_chunks, 0)
    loaded = load_folder(source.folder, "cpu")

    def forward() -> None:
        with torch.no_grad():
            for ids in torch.split(chunks.ids, batch_chunks(512)):
                loaded.base_model(input_ids=ids, use_cache=False)

    def hooked() -> None:
        collect(loaded, chunks, conversion.taps)

    ways: dict[str, Callable[[], None]] = {"forward": forward, "with hooks": hooked}
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(seconds(run))
    print("| in one process | tokens/s | relative |\n|---|---:|---:|")
    whole = statistics.median(times["forward"])
    for name, measured in times.items():
        median = statistics.median(measured)
        print(f"| {name} | {chunks.n_tokens / median:.0f} | {median / whole:.3f} |", flush=True)


def alone(model: str, text: TextSource, n_chunks: int, way: str, weight_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hubquant", "imatrix", "collect", model, "--quiet", "--no-ppl"]
        command += ["-o", f"{folder}/m.gguf", "--chunks", str(n_chunks), "--offload", way]
        command += ["-f", text.file] if text.file else []
        command += ["--max-memory", f"cpu={max(1, weight_bytes // 4 // 2**20)}MiB"] if way == "disk" else []
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        output = process.stdout.read().decode() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"collecting with --offload {way} failed")
        elapsed = time.perf_counter() - start
    n_tokens = 512 * int(re.search(r"(\d+) chunks", output)[1])
    print(f"| {way} | {elapsed:.1f} | {n_tokens / elapsed:.0f} | {usage.ru_maxrss * 1024 / 1e6:.0f} |", flush=True)


def beside(program: str, model: str, text: str, n_chunks: int, rounds: int) -> None:
    """Whole processes in turns, ratios of the medians."""
    with tempfile.TemporaryDirectory() as folder:
        hubquant = [sys.executable, "-m", "hubquant"]
        subprocess.run([*hubquant, "convert", model, "-o", f"{folder}/m.gguf", "--quiet"], check=True)
        common = ["--chunks", str(n_chunks), "--no-ppl", "-f", text]
        threads = str(torch.get_num_threads())
        lines = {
            "hubquant": [*hubquant, "imatrix", "collect", model, *common, "--quiet"],
            "llama-imatrix": [program, "-m", f"{folder}/m.gguf", *common, "-c", "512", "-t", threads],
        }
        cpu: dict[str, list[float]] = {name: [] for name in lines}
        peaks: dict[str, float] = dict.fromkeys(lines, 0.0)
        for number in range(rounds):
            environment = {**os.environ, "HUBQUANT_HOME": f"{folder}/store{number}"}
            for name, line in lines.items():
                process = subprocess.Popen(
                    [*line, "-o", f"{folder}/{name}{number}.gguf"],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                _, status, usage = os.wait4(process.pid, 0)
                if status:
                    sys.exit(f"{name} failed")
                cpu[name].append(usage.ru_utime + usage.ru_stime)
                peaks[name] = max(peaks[name], usage.ru_maxrss * 1024 / 1e6)
    print("| program | CPU s | relative speed | peak MB |\n|---|---:|---:|---:|")
    reference = statistics.median(cpu["llama-imatrix"])
    for name, measured in cpu.items():
        median = statistics.median(measured)
        print(f"| {name} | {median:.1f} | {reference / median:.2f} | {peaks[name]:.0f} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--text", help="calibration text; the bundled one if not given")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-imatrix", help="the program to compare with; needs --text")
    arguments = parser.parse_args()
    if arguments.llama_imatrix and not arguments.text:
        parser.error("--llama-imatrix needs --text: both programs read one file")
    text = TextSource(file=arguments.text) if arguments.text else TextSource(bundled="calibration")
    print(f"{arguments.model}, {arguments.chunks} chunks of 512 tokens, {torch.get_num_threads()} threads\n")
    # Linux counts the memory of a process that starts another into the peak of the other: the small ones come first.
    component = open_component(flags.model(arguments.model))
    source, conversion = component.source, component.conversion
    if arguments.llama_imatrix:
        folder, program = str(source.folder), arguments.llama_imatrix
        beside(program, folder, arguments.text, arguments.chunks, arguments.rounds)
    weight_bytes = 4 * sum(torch.Size(shape).numel() for shape in conversion.shapes.values())
    print("| offload | s | tokens/s | peak MB |\n|---|---:|---:|---:|")
    for way in WAYS:
        alone(str(source.folder), text, arguments.chunks, way, weight_bytes)
    print()
    in_process(arguments.model, text, arguments.chunks, arguments.rounds)


if __name__ == "__main__":
    main()
