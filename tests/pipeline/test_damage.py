"""What an earlier run left is used only while it is what was made."""

from __future__ import annotations

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
def made(line: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The output and the store it was made in."""
    folder = tmp_path_factory.mktemp("made")
    assert hubquant(*line, "--out", str(folder / "out"), "--store", str(folder / "store")).code == 0
    return folder / "out", folder / "store"


@pytest.fixture
def out(made: tuple[Path, Path], tmp_path: Path, store: Path) -> Path:
    """A copy in which an output and its artifact are one file, as in the original."""
    out = Path(shutil.copytree(made[0], tmp_path / "out"))
    shutil.copytree(made[1], store)
    for artifact in store.glob("*/*/*.gguf"):
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


def test_what_is_damaged_is_made_again_with_a_note(
    line: list[str], made: tuple[Path, Path], out: Path, store: Path
) -> None:
    damages: dict[str, Damage] = {
        "importance matrix": lambda: flip_the_end(out / "imatrix.gguf"),
        "baseline": lambda: cut(next(store.glob("baseline/*/baseline.h5"))),
        "Q8_0 file": lambda: flip_the_end(out / "tiny-llama-Q8_0.gguf"),
        "Q8_0 check in llama.cpp": lambda: next(store.glob("runtime/*/made-from.json")).write_text("7"),
        "Q8_0 evaluation": lambda: empty(next(store.glob("evaluation/*/result.json"))),
    }
    for damage in damages.values():
        damage()
    outcome = again(line, out)
    notes = [text.split(" of an earlier run")[0] for text in outcome.err.split("note: the ")[1:]]
    assert sorted(notes) == sorted(damages), outcome.err
    assert "verify: Q8_0\n" in outcome.err  # the file that was made again is looked at again
    assert contents(out) == contents(made[0])
    assert "made again" not in again(line, out).err


def test_state_of_an_interrupted_run_may_be_damaged_too(
    line: list[str], made: tuple[Path, Path], out: Path, store: Path
) -> None:
    for kind in ("file", "imatrix", "baseline"):
        done = next((made[1] / kind).iterdir())
        building = Path(shutil.copytree(done, store / "building" / f"{kind}-{done.name}"))
        shutil.rmtree(store / kind, ignore_errors=True)
        for path in building.iterdir():
            cut(path)
            for leftover in (".partial", ".partial.journal"):
                for name in (f"{path.name}{leftover}", f".{path.name}{leftover}"):
                    shutil.copyfile(next(path for path in done.iterdir()), path.with_name(name))
        (building / "snapshot").write_bytes(b"\xff" * 100)
    again(line, out)
    assert contents(out) == contents(made[0])


def test_an_output_outlives_the_store(line: list[str], made: tuple[Path, Path], out: Path, store: Path) -> None:
    shutil.rmtree(store)
    assert contents(out) == contents(made[0])
    assert hubquant("publish", str(out), "--to", "me/made", "--dry-run").code == 0
    again(line, out)
    assert contents(out) == contents(made[0])
