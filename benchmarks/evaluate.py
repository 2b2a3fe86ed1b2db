"""What measuring files against a stored baseline takes, and how it grows with context, vocabulary and number of files.

    python -m benchmarks.evaluate [--tokens 8192] [--width 512] [--folder DIR]

The model is a Llama of random bf16 weights whose output layer is scaled so that a few words are likely, as real ones
have it. Every line has a baseline in the usual form and in full, then the files measured in one command against the
first, and as the peer one command for each file against the full one: the way of tools that keep all logits. Every
command is a process of its own, with a store of its own. "tokens/s" are those of the text, times the files.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.llama import llama_config, make_llama
from benchmarks.stream import Outcome, hubquant

TYPES = ("Q8_0", "Q4_0", "Q5_0")
LAYERS = 4
SPREAD = 6.0  # of the logits; their softmax over 10⁴ to 10⁵ words then has an entropy of about two nats


@dataclass(frozen=True)
class Case:
    n_vocab: int = 32_000
    context: int = 512
    n_files: int = 1


CASES = (Case(), Case(context=2048), Case(n_vocab=128_256), Case(n_files=3))


def make_model(folder: Path, width: int, n_vocab: int) -> None:
    make_llama(folder, llama_config(width, LAYERS, n_vocab, context=4096, group=1), SPREAD)


def run(case: Case, folder: Path, n_tokens: int, width: int) -> str:
    model, chunks = folder / "model", n_tokens // case.context
    # Linux counts the memory of a process that starts another into the peak of the other: this one must stay small.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(make_model, model, width, case.n_vocab).result()
    done("quantize", str(model), "-t", ",".join(TYPES[: case.n_files]), "-o", str(folder / "files"), to=folder)
    files = sorted(map(str, (folder / "files").glob("*.gguf")))
    text = ["--chunks", str(chunks), "--chunk-size", str(case.context)]
    stored = {}
    for form, options in (("usual", []), ("full", ["--full"])):
        path = folder / f"{form}.h5"
        found = done("evaluate", "baseline", str(model), *text, *options, "-o", str(path), to=folder)
        stored[form] = (found, path)
    n_scored = chunks * (case.context - 1 - case.context // 2)
    ours = done("evaluate", "run", *files, "-b", str(stored["usual"][1]), to=folder)
    peers = [done("evaluate", "run", file, "-b", str(stored["full"][1]), to=folder) for file in files]
    seconds, cpu = sum(peer.seconds for peer in peers), sum(peer.cpu_seconds for peer in peers)
    sizes = {form: path.stat().st_size / n_scored * 1000 / 1e6 for form, (_, path) in stored.items()}
    cells = [
        f"{case.n_vocab:,}",
        case.context,
        case.n_files,
        *(f"{found.seconds:.0f}" for found, _ in stored.values()),
        *(f"{size:.1f}" for size in sizes.values()),
        f"{len(files) * chunks * case.context / ours.seconds:.0f}",
        f"{seconds / ours.seconds:.2f}",
        f"{cpu / ours.cpu_seconds:.2f}",
        f"{max(stored['usual'][0].peak, ours.peak) / 1e6:.0f}",
        f"{max([stored['full'][0].peak, *(peer.peak for peer in peers)]) / 1e6:.0f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def done(*arguments: str, to: Path) -> Outcome:
    with tempfile.TemporaryDirectory(dir=to) as store:
        found = hubquant(*arguments, "--store", store, group=None)
    if found.ended != "done":
        raise SystemExit(f"{' '.join(arguments[:2])} {found.ended}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="of the text")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="work on this disk")
    arguments = parser.parse_args()
    print(f"{arguments.tokens} tokens, width {arguments.width}, {LAYERS} layers, {os.cpu_count()} cores\n")
    heads = "vocabulary|context|files|baseline s|full s|MB/1000|full MB/1000|tokens/s|× peer's s|× CPU|peak MB|peer's"
    print(f"| {' | '.join(heads.split('|'))} |\n|{'---:|' * len(heads.split('|'))}", flush=True)
    for case in CASES:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            print(run(case, Path(folder), arguments.tokens, arguments.width), flush=True)


if __name__ == "__main__":
    main()
