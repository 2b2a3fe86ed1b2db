"""A run asks diffusers to load what it says that diffusers loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import hubquant
from tests.support.diffusion import FRAMES, save_pipeline

PICTURES = {"count": 1, "steps": 1, "size": 32}


def run(folder: Path, out: Path, *settings: str, frames: int | None = None) -> str:
    pictures = PICTURES | ({"frames": frames} if frames else {})
    given = [f"{part}.pictures.{name}={n}" for part in ("calibration", "evaluate") for name, n in pictures.items()]
    words = [word for setting in (*given, *settings) for word in ("--set", setting)]
    outcome = hubquant("run", str(folder), "--out", str(out), "--types", "Q4_0", *words)
    assert outcome.code == 0, outcome.err
    return outcome.err + outcome.out


@pytest.mark.parametrize(
    ("family", "setting"), [("wan", "publish.layout=original"), ("flux", "publish.layout=diffusers")]
)
def test_a_file_that_it_loads(tmp_path: Path, family: str, setting: str) -> None:
    told = run(save_pipeline(family, tmp_path / "tiny"), tmp_path / "out", setting, frames=FRAMES.get(family))
    (measured,) = json.loads((tmp_path / "out" / "measurements.json").read_text())["files"]
    assert "diffusers" in measured["loaded_by"]
    assert 0 < measured["in_diffusers"]["error"] < 2e-3
    assert "diffusers" in told.split("evaluate: ")[-1]
    said = f"diffusers {measured['in_diffusers']['version']} loads every file, and predicts what the file's weights do"
    assert said in " ".join(told.split())
    assert said in " ".join((tmp_path / "out" / "README.md").read_text().replace("\\", "").split())


def test_a_file_that_it_has_no_size_for(tmp_path: Path) -> None:
    told = run(save_pipeline("flux", tmp_path / "tiny"), tmp_path / "out")
    assert "diffusers knows these names only of a flux as large as the published one" in " ".join(told.split())
    (measured,) = json.loads((tmp_path / "out" / "measurements.json").read_text())["files"]
    assert measured["in_diffusers"] is None
    assert "diffusers" not in measured["loaded_by"]


def test_a_file_in_several_parts_is_for_no_program(tmp_path: Path) -> None:
    folder = save_pipeline("sd3", tmp_path / "tiny")
    none = ("imatrix.skip=true", "evaluate.skip=true")
    assert "Q4_0 loads in diffusers, ComfyUI-GGUF" in " ".join(run(folder, tmp_path / "one", *none).split())
    told = " ".join(run(folder, tmp_path / "parts", *none, "publish.shard_size=200KB").split())
    assert "Q4_0 loads in no program known, as it is in 2 parts; a larger publish.shard_size makes it one" in told
    (measured,) = json.loads((tmp_path / "parts" / "measurements.json").read_text())["files"]
    assert measured["loaded_by"] == []
