"""An importance matrix of a model larger than the memory it may use: streaming beside accelerate's disk offload.

    python -m benchmarks.stream [--gigabytes 2] [--chunks 8] [--limit 1.5] [--folder DIR]

The model is a Llama of random bf16 weights in a temporary folder (on the disk of DIR). Each way collects in a process
of its own that begins with the files out of the page cache; where the system has memory cgroups the process may not use
more than ``--limit`` GB (accelerate's is told the same by max_memory), page cache included, and is killed if it does.
"peak" is the largest resident size, "read" what came from the disk.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.convert import forget, make_model, width

SHARDS = 8
CGROUPS = Path("/sys/fs/cgroup/memory")
"""Version 1; those of version 2 cannot be made beside processes without further ado."""


@contextmanager
def limited(n_bytes: int) -> Iterator[Path | None]:
    """A group of processes that may not use more memory; None where none can be made."""
    group = CGROUPS / f"hubquant-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(n_bytes))
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


@dataclass(frozen=True)
class Outcome:
    """``peak`` is the largest resident size and ``read`` what came from the disk, in bytes."""

    ended: str
    seconds: float
    cpu_seconds: float
    peak: int
    read: int


def hubquant(*arguments: str, group: Path | None) -> Outcome:
    """A command in a process of its own, in ``group``."""

    def enter() -> None:
        if group is not None:
            (group / "tasks").write_text(str(os.getpid()))

    command = [sys.executable, "-m", "hubquant", *arguments, "--quiet"]
    start, read = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=enter)
    while True:
        counters = Path(f"/proc/{process.pid}/io").read_text()
        read = max(read, int(re.search(r"^read_bytes: (\d+)", counters, re.MULTILINE)[1]))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.05)
    ended = "done" if status == 0 else "killed" if os.WTERMSIG(status) == signal.SIGKILL else "failed"
    seconds, cpu = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    return Outcome(ended, seconds, cpu, usage.ru_maxrss * 1024, read)


def collect(model: Path, way: str, chunks: int, limit: int, group: Path | None) -> Outcome:
    out = model.parent / f"{way}.gguf"
    options = ["-o", str(out), "--no-ppl", "--chunks", str(chunks), "--offload", way]
    options += ["--max-memory", f"cpu={limit // 3 // 2**20}MiB"] if way == "disk" else []
    return hubquant("imatrix", "collect", str(model), *options, group=group)


def make_in_shards(folder: Path, n_bytes: float) -> list[Path]:
    """The weight files of a model of that size, made in a process that leaves no memory behind."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(make_model, folder, width(n_bytes, SHARDS), SHARDS).result()
    return sorted(folder.glob("*.safetensors"))


def run(folder: Path, n_bytes: float, chunks: int, limit: int) -> None:
    model = folder / "model"
    shards = make_in_shards(model, n_bytes)
    size = sum(shard.stat().st_size for shard in shards)
    with limited(limit) as group:
        held = f"limited to {limit / 1e9:.2f} GB by a cgroup" if group else "not limited"
        print(f"{size / 1e9:.2f} GB of weights, {chunks} chunks of 512 tokens, {os.cpu_count()} cores, {held}\n")
        print("| offload | ended | s | CPU s | peak MB | read GB |\n|---|---|---:|---:|---:|---:|", flush=True)
        for way in ("stream", "disk"):
            forget(shards)
            made = collect(model, way, chunks, limit, group)
            print(
                f"| {way} | {made.ended} | {made.seconds:.0f} | {made.cpu_seconds:.0f} | {made.peak / 1e6:.0f} "
                f"| {made.read / 1e9:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--limit", type=float, default=1.5, help="GB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="work on this disk")
    arguments = parser.parse_args()
    n_bytes = arguments.gigabytes * 1e9
    free = shutil.disk_usage(arguments.folder).free
    if free < 4 * n_bytes:
        sys.exit(f"{arguments.folder} has {free / 1e9:.1f} GB free; {4 * n_bytes / 1e9:.1f} GB may be needed")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run(Path(folder), n_bytes, arguments.chunks, int(arguments.limit * 1e9))


if __name__ == "__main__":
    main()
