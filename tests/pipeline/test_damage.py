"""What an earlier run left is used only while it is what was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Outcome, hubquant

Damage = Callable[[], object]


def flip_the_end(path: Path) -> None:
    """In place, so that a hard link of the file shares it."""
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\x7f" * 1000)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def line(tiny_llama: Path, small_settings: list[str]) -> list[str]:
    return ["run", str(tiny_llama), "--types", "Q8_0", *small_settings, "--set", "quantize.types=[Q8_0]"]


@pytest.fixture(scope="module")
def made(line: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    assert hubquant(*line, "--out", str(out)).code == 0
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy in which an output and its artifact are one file, as in the original."""
    out = Path(shutil.copytree(made, tmp_path / "out"))
    for artifact in out.glob(".hubquant/*/*/*.gguf"):
        placed = out / artifact.name
        placed.unlink()
        placed.hardlink_to(artifact)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and ".hubquant" not in path.parts)
    return {path.name: path.read_bytes() for path in paths}


def again(line: list[str], out: Path) -> Outcome:
    outcome = hubquant(*line, "--out", str(out))
    assert outcome.code == 0, outcome.err
    return outcome


def test_what_is_damaged_is_made_again_with_a_note(line: list[str], made: Path, out: Path) -> None:
    damages: dict[str, Damage] = {
        "importance matrix": lambda: flip_the_end(out / "imatrix.gguf"),
        "baseline": lambda: cut(next(out.glob(".hubquant/baseline/*/baseline.h5"))),
        "Q8_0 file": lambda: flip_the_end(out / "tiny-llama-Q8_0.gguf"),
        "Q8_0 check in llama.cpp": lambda: next(out.glob(".hubquant/runtime/*/made-from.json")).write_text("7"),
        "Q8_0 evaluation": lambda: empty(next(out.glob(".hubquant/evaluation/*/result.json"))),
    }
    for damage in damages.values():
        damage()
    outcome = again(line, out)
    notes = [text.split(" of an earlier run")[0] for text in outcome.err.split("note: the ")[1:]]
    assert notes == list(damages), outcome.err
    assert contents(out) == contents(made)
    assert "made again" not in again(line, out).err


def test_what_the_first_versions_left_is_checked_by_its_content(line: list[str], made: Path, out: Path) -> None:
    for record in out.glob(".hubquant/*/*/made-from.json"):
        record.write_text(json.dumps(json.loads(record.read_text())["made_from"]))
    flip_the_end(out / "tiny-llama-Q8_0.gguf")  # which no record tells
    assert hubquant(*line, "--out", str(out)).code == 1  # verified once more
    assert "made again" not in again(line, out).err
    assert contents(out) == contents(made)


def test_state_of_an_interrupted_run_may_be_damaged_too(line: list[str], made: Path, out: Path) -> None:
    shutil.rmtree(out / ".hubquant" / "file")
    (out / ".hubquant" / "building").mkdir(exist_ok=True)
    for kind in ("file", "imatrix", "baseline"):
        done = next((made / ".hubquant" / kind).iterdir())
        building = Path(shutil.copytree(done, out / ".hubquant" / "building" / f"{kind}-{done.name}"))
        shutil.rmtree(out / ".hubquant" / kind, ignore_errors=True)
        for path in building.iterdir():
            cut(path)
            for leftover in (".partial", ".partial.journal"):
                for name in (f"{path.name}{leftover}", f".{path.name}{leftover}"):
                    shutil.copyfile(next(path for path in done.iterdir()), path.with_name(name))
        (building / "snapshot").write_bytes(b"\xff" * 100)
    again(line, out)
    assert contents(out) == contents(made)
