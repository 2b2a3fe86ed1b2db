from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import ValidationError

from hubquant.calibration.prompts import read_prompts
from hubquant.errors import CalibrationError
from hubquant.recipe.pictures import Pictures, PromptSource
from tests.support.localhub import LocalHub

ROWS = [{"prompt": f"picture {i}", "n": i, "chat": [{"role": "user", "content": f"q{i}"}]} for i in range(5)]


def read(*sources: dict[str, Any], count: int = 5) -> tuple[str, ...]:
    return read_prompts(Pictures(prompts=tuple(PromptSource(**source) for source in sources), count=count))


def test_a_line_is_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "{lang}.txt"
    path.write_bytes('\ufeffa cat\r\n\n  # no prompt\n   \n ein Löwe  \n"#1" on a door'.encode())
    assert read({"file": str(path)}, count=3) == ("a cat", "ein Löwe", '"#1" on a door')
    assert read({"file": str(path)}, count=1) == ("a cat",)
    assert read({"file": str(path)}, count=5) == ("a cat", "ein Löwe", '"#1" on a door', "a cat", "ein Löwe")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
def test_a_row_is_a_prompt(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in [*ROWS, {"prompt": " "}]))
    elif kind == "parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    else:
        datasets.Dataset.from_list(ROWS).save_to_disk(path)
    assert read({"file": str(path)}) == tuple(str(row["prompt"]) for row in ROWS)
    with pytest.raises(CalibrationError, match=r"no field 'caption'.*: row 1 has: prompt, n, chat"):
        read({"file": str(path), "field": "caption"})
    with pytest.raises(CalibrationError, match=r"row 1 of .* holds no text: 'n' is a number"):
        read({"file": str(path), "field": "n"})
    with pytest.raises(CalibrationError, match=r"row 1 of .* holds no prompt: 'chat' is a conversation"):
        read({"file": str(path), "field": "chat"})


def test_a_dataset_of_the_hub(hub: LocalHub) -> None:
    hub.add("org/prompts", {"train.jsonl": "\n".join(map(json.dumps, ROWS)).encode()}, kind="dataset")
    assert read({"dataset": "org/prompts"}, count=2) == ("picture 0", "picture 1")
    with pytest.raises(CalibrationError, match=r"org/prompts has no field 'text': row 1 has: prompt"):
        read({"dataset": "org/prompts", "field": "text"})


def test_sources_take_turns_until_all_are_at_their_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a\nb\nc")
    (tmp_path / "b").write_text("1")
    both = {"file": str(tmp_path / "a")}, {"file": str(tmp_path / "b")}
    assert read(*both, count=6) == ("a", "1", "b", "c", "a", "1")


@pytest.mark.parametrize("text", ["", "\n \n", "# only this\n"])
def test_a_file_without_prompts(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(CalibrationError, match=r"a\.txt holds no prompts"):
        read({"file": str(tmp_path / "a.txt")})
    (tmp_path / "b.txt").write_text("a cat")
    with pytest.raises(CalibrationError, match=r"a\.txt holds no prompts"):
        read({"file": str(tmp_path / "b.txt")}, {"file": str(tmp_path / "a.txt")})


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Löwe".encode("latin1"))
    with pytest.raises(CalibrationError, match=r"not UTF-8: byte 5 is 0xf6"):
        read({"file": str(tmp_path / "a.txt")})
    with pytest.raises(CalibrationError, match="cannot be read"):
        read({"file": str(tmp_path / "none.txt")})


def test_bundled_prompts() -> None:
    calibration, test = read({"bundled": "prompts"}, count=64), read({"bundled": "prompts-test"}, count=16)
    assert len({*calibration, *test}) == 64 + 16
    assert read({"bundled": "prompts"}, count=65)[64] == calibration[0]
    lengths = [len(prompt.split()) for prompt in calibration]
    assert min(lengths) == 1
    assert max(lengths) >= 70


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 0},
        {"size": (64, -1)},
        {"size": (64, 64, 64)},
        {"count": 0},
        {"steps": 0},
        {"frames": 0},
        {"guidance": -1},
        {"guidance": float("nan")},
        {"batch": 0},
        {"seed": -1},
        {"prompts": []},
        {"prompts": [{"file": "a", "bundled": "prompts"}]},
        {"prompts": [{"dataset": "./here"}]},
        {"prompts": [{"bundled": "calibration"}]},
    ],
)
def test_settings_that_make_no_pictures(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Pictures(**settings)


def test_settings_of_pictures() -> None:
    assert Pictures(size=64).width_and_height == (64, 64)
    assert Pictures(size=(64, 32)).width_and_height == (64, 32)
    assert Pictures().width_and_height is None
    assert Pictures(seed=7, count=3).seeds == (7, 8, 9)
    assert PromptSource(file="/home/me/mine.txt").display_name == "mine.txt"
