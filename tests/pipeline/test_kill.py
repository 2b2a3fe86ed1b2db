"""Killed at any moment, a run goes on and leaves the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

KILLS = 10


def _run(arguments: list[str]) -> None:
    os.setpgrp()
    from hubquant.cli.app import run_app

    raise SystemExit(run_app([*arguments, "--quiet"]))


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Children that have the libraries in memory already, so that kills hit the work and not the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["transformers.models.llama.modeling_llama", "hubquant.pipeline.run", "hubquant.cli.app"]
    )
    return context


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".hubquant" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_the_quickstart_survives_ten_kills(context: ForkServerContext, tmp_path: Path) -> None:
    less = ["--set", "calibration.chunks=16", "--set", "evaluate.chunks=6"]

    def start(out: str) -> multiprocessing.context.ForkServerProcess:
        process = context.Process(target=_run, args=(["run", "quickstart", "--out", str(tmp_path / out), *less],))
        process.start()
        return process

    begin = time.monotonic()
    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    seconds = time.monotonic() - begin

    moments = random.Random(os.environ.get("PYTEST_SEED", "0"))
    for _ in range(KILLS):
        process = start("killed")
        process.join(moments.uniform(0, 2 * seconds / KILLS))
        process.kill()
        process.join()
        assert not any((tmp_path / "killed").glob("*.partial"))
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
