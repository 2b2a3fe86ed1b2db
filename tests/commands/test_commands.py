"""Single commands are tasks of the store: planned, checked, verified, made once, and put where they are asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.support.cli import Outcome, hubquant
from tests.support.disks import mounted

FEW = ("--chunks", "2", "--chunk-size", "16")
HDF5_BYTES = 1 << 14  # its own tables
COMMANDS = ("convert", "quantize", "imatrix collect", "evaluate baseline", "evaluate run", "evaluate ppl")
STEPS = {
    "convert": ["quantize", "verify"],
    "quantize": ["quantize", "verify"],
    "imatrix collect": ["imatrix"],
    "evaluate baseline": ["baseline"],
    "evaluate run": ["evaluate"],
    "evaluate ppl": ["perplexity"],
}


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file and a baseline, for `evaluate run`."""
    folder = tmp_path_factory.mktemp("made")
    store = ("--store", str(folder / "store"))
    for line in (
        ["convert", str(tiny_llama), "-o", str(folder / "model.gguf"), *store],
        ["evaluate", "baseline", str(tiny_llama), "-o", str(folder / "baseline.h5"), *FEW, *store],
    ):
        outcome = hubquant(*line)
        assert outcome.code == 0, outcome.err
    return folder


def line_of(command: str, model: Path, made: Path, out: Path) -> list[str]:
    rest = {
        "convert": [str(model), "-o", str(out / "model.gguf")],
        "quantize": [str(model), "-t", "Q8_0,Q4_0", "-o", str(out)],
        "imatrix collect": [str(model), "-o", str(out / "imatrix.gguf"), *FEW],
        "evaluate baseline": [str(model), "-o", str(out / "baseline.h5"), *FEW],
        "evaluate run": [str(made / "model.gguf"), "--baseline", str(made / "baseline.h5")],
        "evaluate ppl": [str(model), *FEW],
    }
    return [*command.split(), *rest[command]]


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def inodes(store: Path) -> dict[Path, int]:
    """Of all artifacts."""
    return {path: path.stat().st_ino for path in store.glob("*/*/*")}


def steps(outcome: Outcome) -> dict[str, bool]:
    """Whether each was done before, from the events of --json."""
    events = [json.loads(line) for line in outcome.err.splitlines()]
    return {event["name"]: event["reused"] for event in events if event["event"] == "step"}


def done(*line: str) -> Outcome:
    outcome = hubquant(*line)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_shows_the_plan_and_writes_nothing(
    command: str, tiny_llama: Path, made: Path, tmp_path: Path, store: Path
) -> None:
    line = [*line_of(command, tiny_llama, made, tmp_path / "out"), "--dry-run"]
    before = everything(tmp_path) | everything(made)
    text = done(*line).out
    plan = json.loads(done(*line, "--json").out)
    assert everything(tmp_path) | everything(made) == before
    assert not store.exists()
    assert [step["name"] for step in plan["steps"]] == STEPS[command]
    assert not any(step["done"] for step in plan["steps"])
    assert plan["ram_bytes"] > 0
    assert plan["seconds"] is None
    for word in (*STEPS[command], "memory", "disk", "download", "time      not known yet", *plan["outputs"]):
        assert word in text
    assert bool(plan["outputs"]) == (command not in ("evaluate run", "evaluate ppl"))
    if plan["outputs"]:
        done(*line[:-1])
        taken = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
        assert taken - HDF5_BYTES <= plan["disk_bytes"] < 3 * taken


@pytest.mark.parametrize("command", COMMANDS)
def test_too_little_memory_is_told_before_any_work(
    command: str, tiny_llama: Path, made: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1 << 16, available=1 << 16))
    outcome = hubquant(*line_of(command, tiny_llama, made, tmp_path / "out"))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "65.5 kB may be used" in outcome.err or "memory" in outcome.err
    assert not store.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["convert", "quantize", "imatrix collect", "evaluate baseline"])
def test_too_little_disk_is_told_before_any_work(
    command: str, tiny_llama: Path, made: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 20, 1 << 20, 10))
    outcome = hubquant(*line_of(command, tiny_llama, made, tmp_path / "out"))
    assert outcome.code == 2
    assert outcome.is_one_message(), outcome.err
    assert "not enough disk space" in outcome.err
    assert not store.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_made_is_only_placed_again(
    command: str, tiny_llama: Path, made: Path, tmp_path: Path, store: Path
) -> None:
    first, second = (line_of(command, tiny_llama, made, tmp_path / name) for name in ("first", "second"))
    assert steps(done(*first, "--json")) == dict.fromkeys(STEPS[command], False)
    contents = {path.name: path.read_bytes() for path in (tmp_path / "first").glob("*")}
    assert bool(contents) == (command not in ("evaluate run", "evaluate ppl"))
    artifacts = inodes(store)
    assert steps(done(*second, "--json")) == dict.fromkeys(STEPS[command], True)
    for path in (tmp_path / "first").glob("*"):
        path.unlink()
    assert set(steps(done(*first, "--json")).values()) == {True}
    assert set(steps(done(*first, "--json")).values()) == {True}  # over what is there already
    for name in ("first", "second"):
        assert {path.name: path.read_bytes() for path in (tmp_path / name).glob("*")} == contents
        assert all(path.stat().st_nlink == 3 for path in (tmp_path / name).glob("*"))
    assert inodes(store) == artifacts
    plan = json.loads(done(*first, "--dry-run", "--json").out)
    assert all(step["done"] for step in plan["steps"])
    assert (plan["disk_bytes"], plan["seconds"]) == (0, 0)


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_what_was_damaged_between_is_made_and_verified_again(
    command: str, tiny_llama: Path, made: Path, tmp_path: Path, store: Path
) -> None:
    line = line_of(command, tiny_llama, made, tmp_path)
    done(*line)
    contents = {path: path.read_bytes() for path in tmp_path.glob("*.gguf")}
    [damaged, *_] = store.glob("file/*/*.gguf")
    with damaged.open("r+b") as file:  # and with it the output, which is a link
        file.seek(-99, 2)
        file.write(b"\x55" * 99)
    outcome = done(*line, "--json")
    assert "is damaged" in outcome.err
    assert steps(outcome) == {"quantize": False, "verify": False}
    assert {path: path.read_bytes() for path in tmp_path.glob("*.gguf")} == contents


def test_outputs_on_another_disk_are_copies(tiny_llama: Path, made: Path, tmp_path: Path, store: Path) -> None:
    with mounted(tmp_path / "disk", "size=64m") as disk:
        done(*line_of("quantize", tiny_llama, made, disk / "out"))
        done(*line_of("quantize", tiny_llama, made, disk / "out"))
        paths = list((disk / "out").iterdir())
        assert sorted(path.name for path in paths) == ["tiny-llama-Q4_0.gguf", "tiny-llama-Q8_0.gguf"]
        for path in paths:
            [artifact] = store.glob(f"file/*/{path.name}")
            assert path.read_bytes() == artifact.read_bytes()
            assert path.stat().st_nlink == artifact.stat().st_nlink == 1
    with mounted(tmp_path / "small", "size=64k") as disk:
        outcome = hubquant(*line_of("quantize", tiny_llama, made, disk / "out"))
        assert outcome.code == 2
        assert outcome.is_one_message(), outcome.err
        assert "not enough disk space" in outcome.err
        assert not list(disk.iterdir())


def test_killed_and_repeated_it_goes_on(tiny_llama: Path, made: Path, tmp_path: Path, store: Path) -> None:
    line = line_of("quantize", tiny_llama, made, tmp_path / "out")
    process = subprocess.Popen([sys.executable, "-m", "hubquant", *line, "-q"], start_new_session=True)
    while process.poll() is None and not list(store.glob("building/file-*/*")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done(*line)
    done(*line_of("quantize", tiny_llama, made, tmp_path / "whole"), "--store", str(tmp_path / "another"))
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert not list((store / "building").iterdir())
