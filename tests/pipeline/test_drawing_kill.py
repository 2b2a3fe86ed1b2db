"""A run of a diffusion model that is killed while it draws goes on with the next picture, to the same bits."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.diffusion import save_pipeline
from tests.support.processes import command

pytestmark = pytest.mark.slow
PICTURES = [f"{part}.pictures.{s}" for part in ("calibration", "evaluate") for s in ("count=6", "steps=2", "size=32")]
SETTINGS = [part for setting in PICTURES for part in ("--set", setting)]
LINE = ("--types", "Q8_0,Q4_0", *SETTINGS, "--quiet")
MOMENTS = ("imatrix-*/snapshot*", "drawings-*/tape/picture-0002", "drawing-evaluation-*/pictures/picture-0001*")
"""What is there in the store when the run is killed: while it calibrates, while the source draws, while a file does."""


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".hubquant" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_killed_while_it_draws(tmp_path: Path) -> None:
    model = save_pipeline("flux", tmp_path / "flux")

    def start(out: str, store: str) -> processes.ForkServerProcess:
        places = ["--out", str(tmp_path / out), "--store", str(tmp_path / store)]
        return processes.start(command, "run", str(model), *places, *LINE)

    whole = start("whole", "untouched")
    whole.join()
    assert whole.exitcode == 0
    for moment in MOMENTS:
        killed = start("killed", "store")
        while killed.is_alive() and not list((tmp_path / "store").glob(f"building/{moment}")):
            time.sleep(0.005)
        assert killed.is_alive(), moment
        killed.kill()
        killed.join()
        assert not contents(tmp_path / "killed")
    last = start("killed", "store")
    last.join()
    assert last.exitcode == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
