"""Killed at any moment, a run goes on and leaves the same bytes; so do two that share a store."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from hubquant.engine.store import RECORD, Store
from tests.support import processes
from tests.support.processes import command

KILLS = 10
LESS = ("--set", "calibration.chunks=16", "--set", "evaluate.chunks=6")
LEAST = ("--set", "calibration.chunks=4", "--set", "evaluate.chunks=2")

pytestmark = pytest.mark.slow
Start = Callable[..., ForkServerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def begin(out: str, store: str, *options: str) -> ForkServerProcess:
        places = ["--out", str(tmp_path / out), "--store", str(tmp_path / store)]
        return processes.start(command, "run", "quickstart", *places, *LESS, *options, "--quiet")

    return begin


@pytest.fixture
def moments() -> random.Random:
    return random.Random(os.environ.get("PYTEST_SEED", "0"))


def finished(process: ForkServerProcess) -> bool:
    process.join()
    return process.exitcode == 0


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".hubquant" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def artifacts(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.glob(f"*/*/{RECORD}")}


def half_written(*folders: Path) -> list[Path]:
    """What only work in progress may leave."""
    names = ("*.partial*", "building/*", "*.writing", "*.arriving", "arriving", "offload-*")
    return [path for folder in folders for name in names for path in folder.rglob(name)]


def test_the_quickstart_survives_ten_kills(start: Start, moments: random.Random, tmp_path: Path) -> None:
    begin = time.monotonic()
    assert finished(start("whole", "untouched"))
    seconds = time.monotonic() - begin
    killed, store = tmp_path / "killed", tmp_path / "store"
    for _ in range(KILLS):
        process = start("killed", "store")
        process.join(moments.uniform(0, 2 * seconds / KILLS))
        process.kill()
        process.join()
        assert not any(killed.glob("*.partial"))
    assert finished(start("killed", "store"))
    assert contents(killed) == contents(tmp_path / "whole")
    assert artifacts(store) == artifacts(tmp_path / "untouched")
    assert half_written(store, killed) == []


@pytest.mark.parametrize("types", [("Q8_0,Q4_K_M", "Q8_0,Q4_K_M"), ("Q8_0,Q4_K_M", "Q4_K_M,Q2_K")])
def test_two_processes_on_one_store_survive_ten_kills(
    types: tuple[str, str], start: Start, moments: random.Random, tmp_path: Path
) -> None:
    begin = time.monotonic()
    for number, wanted in enumerate(types):
        assert finished(start(f"whole-{number}", "untouched", *LEAST, "--types", wanted))
    seconds = time.monotonic() - begin

    def again(number: int) -> ForkServerProcess:
        return start(f"out-{number}", "store", *LEAST, "--types", types[number])

    both, kills = [again(0), again(1)], 0
    while kills < KILLS:
        time.sleep(moments.uniform(0, 2 * seconds / KILLS))
        victim = moments.randrange(2)
        if both[victim].is_alive():
            both[victim].kill()
            both[victim].join()
            kills += 1
        else:
            assert both[victim].exitcode == 0
        assert not [path for number in range(2) for path in (tmp_path / f"out-{number}").glob("*.partial")]
        both[victim] = again(victim)
    assert all(map(finished, both))
    outs = [tmp_path / f"out-{number}" for number in range(2)]
    for number, out in enumerate(outs):
        assert contents(out) == contents(tmp_path / f"whole-{number}")
    store = tmp_path / "store"
    assert artifacts(store) == artifacts(tmp_path / "untouched")
    assert half_written(store, *outs) == []
    Store(store).prune(None, 1 << 60)
    assert list((store / "running").iterdir()) == []
