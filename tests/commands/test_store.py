"""``hubquant store``, --store and $HUBQUANT_HOME."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from hubquant.commands.files import Placing, quantize
from hubquant.commands.flags import model as reference
from hubquant.commands.job import Job
from hubquant.engine.progress import Silent
from hubquant.engine.store import HOME, Store
from hubquant.engine.task import Context
from hubquant.recipe.schema import Convert, Imatrix, Quantize
from tests.support.cli import Outcome, hubquant
from tests.support.disks import mounted
from tests.support.processes import command, start
from tests.support.tasks import Text

WAITING = "waiting for another hubquant process, which makes the Q4_0 file"
FAREWELL = "Interrupted. Run the same line again: it continues where it stopped."


def refused(*line: str) -> str:
    outcome = hubquant(*line)
    assert outcome.code == 2, outcome.err
    assert outcome.is_one_message(), outcome.err
    return outcome.err


def done(*line: str) -> Outcome:
    outcome = hubquant(*line)
    assert outcome.code == 0, outcome.err
    return outcome


def listed() -> list[str]:
    return [each["kind"] for each in json.loads(done("store", "list", "--json").out)]


@pytest.fixture
def out(tiny_llama: Path, tmp_path: Path, store: Path) -> Path:
    """Where Q8_0 is; the store holds it and its verification."""
    done("quantize", str(tiny_llama), "-t", "Q8_0", "-o", str(tmp_path / "out"))
    assert store.is_dir()
    return tmp_path / "out"


def test_list_and_prune(out: Path, store: Path) -> None:
    [file] = out.iterdir()
    content = file.read_bytes()
    assert sorted(listed()) == ["file", "verification"]
    text = done("store", "list").out
    assert str(store) in text
    assert "file" in text
    for options in (["--older", "0s"], ["--max-size", "1kB"]):
        would = done("store", "prune", *options, "--dry-run")
        assert "would be freed" in would.out
        assert sorted(listed()) == ["file", "verification"]
    assert "0 B freed" in done("store", "prune", "--older", "1w", "--max-size", "1GB").out
    removed = json.loads(done("store", "prune", "--max-size", "1kB", "--json").out)
    assert [each["kind"] for each in removed] == ["file"]
    assert listed() == ["verification"]
    done("store", "prune", "--older", "0s")
    assert listed() == []
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--dry-run"],
        ["--older", "30"],
        ["--older", "-1d"],
        ["--older", "soon"],
        ["--older", "1e400d"],
        ["--max-size", "large"],
        ["--max-size", "-5GB"],
        ["--max-size", ""],
    ],
)
def test_values_that_cannot_be_meant(options: list[str], store: Path) -> None:
    Store(store).open_building(Text("a"))
    refused("store", "prune", *options)
    assert listed() == ["half built"]


def test_a_store_that_is_not_there_is_empty_and_stays_so(store: Path) -> None:
    assert listed() == []
    done("store", "prune", "--older", "0s")
    assert not store.exists()


def places(folder: Path) -> Iterator[tuple[str, Path]]:
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.txt").write_text("mine")
    yield "is not a store of hubquant", folder / "thesis"
    (folder / "file").write_text("mine")
    yield "cannot be the store", folder / "file"
    yield "cannot be the store", folder / "file" / "store"
    with mounted(folder / "disk", "ro") as disk:
        yield "cannot write to", disk / "store"


def test_a_place_that_cannot_be_the_store_is_told_before_any_work(tiny_llama: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out", tmp_path / "places"
    folder.mkdir()
    for what, place in places(folder):
        before = sorted(folder.rglob("*"))
        for line in (
            ["run", str(tiny_llama), "--out", str(out), "--set", "evaluate.skip=true", "--set", "imatrix.skip=true"],
            ["plan", str(tiny_llama), "--out", str(out), "--set", "evaluate.skip=true", "--set", "imatrix.skip=true"],
            ["convert", str(tiny_llama), "-o", str(out / "x.gguf")],
            ["imatrix", "collect", str(tiny_llama), "-o", str(out / "x.gguf"), "--chunks", "1", "--dry-run"],
        ):
            error = refused(*line, "--store", str(place))
            assert what in error
            assert "--store" in error
        if "disk" not in place.parts:
            assert what in refused("store", "list", "--store", str(place))
            assert what in refused("store", "prune", "--older", "0s", "--store", str(place))
        assert sorted(folder.rglob("*")) == before
        assert not out.exists()


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    default = tmp_path / ".cache" / "hubquant" / "store"
    for given, root in (
        (None, default),
        ("", default),
        ("~/mine", tmp_path / "mine" / "store"),
        (str(tmp_path / "there"), tmp_path / "there" / "store"),
    ):
        monkeypatch.delenv(HOME, raising=False) if given is None else monkeypatch.setenv(HOME, given)
        assert f" {root}\n" in done("store", "list").out
        assert Store().root == root
    monkeypatch.setenv(HOME, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Store().root == tmp_path / "cache" / "hubquant" / "store"
    assert not any(tmp_path.iterdir())


@pytest.fixture
def waiting(tiny_llama: Path, out: Path, said: tuple[Path, Path]) -> Iterator[Callable[[], ForkServerProcess]]:
    """Starts a process that wants Q8_0, which is there, and Q4_0, which it waits for."""
    started = []

    def begin() -> ForkServerProcess:
        printed, err = said
        process = start(command, "quantize", str(tiny_llama), "-t", "Q8_0,Q4_0", "-o", str(out), out=printed, err=err)
        started.append(process)
        while not (err.exists() and WAITING in err.read_text()):
            assert process.is_alive()
            time.sleep(0.02)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def said(tmp_path: Path) -> tuple[Path, Path]:
    """What it says on stdout and on stderr."""
    return tmp_path / "stdout", tmp_path / "stderr"


@pytest.fixture
def job(tiny_llama: Path, out: Path, store: Path) -> Job[object]:
    settings = Quantize(types=("Q4_0",))
    return quantize([reference(str(tiny_llama))], settings, Imatrix(), Convert(), Placing(out), Store(store), Silent())  # type: ignore[return-value]


def test_what_another_process_makes_is_waited_for_and_not_pruned(
    job: Job[object],
    waiting: Callable[[], ForkServerProcess],
    said: tuple[Path, Path],
    out: Path,
    store: Path,
    tiny_llama: Path,
) -> None:
    opened, file = Store(store), job.goals[0]
    needed = [each.path for each in opened.kept()]
    done("quantize", str(tiny_llama), "-t", "Q6_K", "-o", str(out))
    with opened.locked([file], lambda task: pytest.fail(f"{task} is locked")):
        process = waiting()
        removed = json.loads(done("store", "prune", "--older", "0s", "--json").out)
        assert sorted(each["kind"] for each in removed) == ["file", "verification"]  # of Q6_K
        assert sorted(each.path for each in opened.kept()) == sorted(needed)
        file.make(opened.open_building(file), Context(opened, Silent()))
        opened.complete(file)
    process.join(60)
    printed, err = (path.read_text() for path in said)
    assert process.exitcode == 0, err
    assert "Q4_0" in printed
    assert "quantize:" not in err
    assert "verify: Q4_0\n" in err
    assert sorted(path.name for path in out.iterdir()) == [f"tiny-llama-{t}.gguf" for t in ("Q4_0", "Q6_K", "Q8_0")]


def test_ctrl_c_ends_the_waiting(
    job: Job[object], waiting: Callable[[], ForkServerProcess], said: tuple[Path, Path], store: Path
) -> None:
    with Store(store).locked([job.goals[0]], lambda task: pytest.fail(f"{task} is locked")):
        process = waiting()
        assert process.pid
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
    printed, err = (path.read_text() for path in said)
    assert (process.exitcode, printed) == (130, "")
    assert FAREWELL in err
    assert "Traceback" not in err
    assert not list((store / "running").iterdir())


def test_a_store_that_is_not_there_is_said_to_be_none(tmp_path: Path) -> None:
    outcome = hubquant("store", "list", "--store", str(tmp_path / "nowhere"))
    assert (outcome.code, outcome.out) == (0, f"nothing is kept yet: there is no folder {tmp_path / 'nowhere'}\n")
    assert hubquant("store", "list", "--store", str(tmp_path / "nowhere"), "--json").out == "[]\n"
