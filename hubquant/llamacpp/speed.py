"""How fast llama.cpp runs a file, and in how much memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hubquant.engine.machine import peak_bytes, resident_bytes
from hubquant.evaluate.speed import NEW_TOKENS, Speed
from hubquant.limited import Worker, WorkError
from hubquant.llamacpp.probe import post, start_server

N_CTX = 512


def speed_of(path: Path, plain_token: int, threads: int, seconds: int) -> Speed | None:
    """Of the file at ``path`` on the CPU, writing after ``plain_token``; None where llama.cpp does not run it, or takes
    more than ``seconds``."""
    worker = Worker(measured, seconds=seconds)
    try:
        return Speed(**worker(path=str(path), plain_token=plain_token, threads=threads))
    except WorkError:
        return None
    finally:
        worker.close()


def measured(path: str, plain_token: int, threads: int) -> dict[str, Any]:
    """In the other process."""
    import xllamacpp  # noqa: F401  (the library's own memory and time are not the model's)

    before, start = resident_bytes(), time.perf_counter()
    server = start_server(path, N_CTX, threads)
    load_seconds = time.perf_counter() - start
    body = {"prompt": [plain_token], "n_predict": 1, "ignore_eos": True, "temperature": 0}
    post(server, "/completion", body)
    start = time.perf_counter()
    post(server, "/completion", {**body, "n_predict": NEW_TOKENS})
    return {
        "load_seconds": load_seconds,
        "peak_bytes": max(0, peak_bytes() - before),
        "tokens_per_second": NEW_TOKENS / (time.perf_counter() - start),
        "threads": threads,
        "device": "cpu",
    }
