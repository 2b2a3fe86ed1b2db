"""Files measured against a model larger than the memory that may be used: streamed beside loaded as a whole.

    python -m benchmarks.stream_evaluation [--gigabytes 2] [--chunks 8] [--limit 2] [--types Q8_0,Q4_0,Q2_K]

The model is a Llama of random bf16 weights in a temporary folder (on the disk of --folder), and the files are made of
it in the mode exact. Each way measures all of them in a process of its own that begins with everything out of the page
cache; where the system has memory cgroups the process may not use more than ``--limit`` GB, page cache included, and is
killed if it does. "peak" is the largest resident size, "read" what came from the disk, "kept" what the store then holds
beside the results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.convert import forget
from benchmarks.stream import hubquant, limited, make_in_shards


def run(folder: Path, n_bytes: float, chunks: int, limit: int, types: str) -> None:
    model, store = folder / "model", folder / "store"
    shards = make_in_shards(model, n_bytes)
    made = hubquant(
        *("quantize", str(model), "-t", types, "--mode", "exact", "-o", str(folder / "files"), "--store", str(store)),
        group=None,
    )
    files = sorted((folder / "files").glob("*.gguf"))
    if made.ended != "done":
        sys.exit("the files could not be made")
    sizes = ", ".join(f"{file.stat().st_size / 1e9:.2f}" for file in files)
    weights = sum(shard.stat().st_size for shard in shards)
    with limited(limit) as group:
        held = f"limited to {limit / 1e9:.2f} GB by a cgroup" if group else "not limited"
        print(f"{weights / 1e9:.2f} GB of weights, files of {sizes} GB, {chunks} chunks of 512 tokens, ", end="")
        print(f"{os.cpu_count()} cores, {held}\n")
        print(
            "| way | ended | s | CPU s | peak MB | read GB | kept MB |\n|---|---|---:|---:|---:|---:|---:|", flush=True
        )
        for way in ("streamed", "stored"):
            forget([*shards, *files])
            options = ["-b", str(model), "--way", way, "--chunks", str(chunks), "--store", str(store)]
            found = hubquant("evaluate", "run", *map(str, files), *options, group=group)
            kept = sum(
                path.stat().st_size
                for kind in ("last-block", "baseline", "building")
                for path in (store / kind).rglob("*")
                if path.is_file()
            )
            shutil.rmtree(store / "last-block", ignore_errors=True)
            print(
                f"| {way} | {found.ended} | {found.seconds:.0f} | {found.cpu_seconds:.0f} | {found.peak / 1e6:.0f} "
                f"| {found.read / 1e9:.2f} | {kept / 1e6:.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--limit", type=float, default=2, help="GB")
    parser.add_argument("--types", default="Q8_0,Q4_0,Q2_K")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="work on this disk")
    arguments = parser.parse_args()
    n_bytes = arguments.gigabytes * 1e9
    free = shutil.disk_usage(arguments.folder).free
    if free < 5 * n_bytes:
        sys.exit(f"{arguments.folder} has {free / 1e9:.1f} GB free; {5 * n_bytes / 1e9:.1f} GB may be needed")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(Path(folder), n_bytes, arguments.chunks, int(arguments.limit * 1e9), arguments.types)


if __name__ == "__main__":
    main()
