"""The bundled pipeline: what it draws is what its prompts say."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from hubquant.calibration.prompts import read_prompts
from hubquant.models.diffusion import draw, load_pipeline
from hubquant.recipe.load import load_recipe
from hubquant.recipe.pictures import Pictures
from hubquant.sources.denoiser import DenoiserSource
from hubquant.sources.open import open_source
from scripts.demo_pictures import COLOURS, PLACES, RADII, SHAPES, Scene, seen

FOLDER = Path(str(resources.files("hubquant") / "data" / "demo-diffusion"))


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline(FOLDER, "cpu")


@pytest.mark.parametrize("prompt", ["a large red circle on blue, left", "a small white square on green, right"])
def test_it_draws_what_the_prompt_says(pipe: Any, prompt: str) -> None:
    drawn = draw(pipe, [prompt], [0], Pictures(steps=8, guidance=3)).pictures
    assert drawn.shape == (1, 1, 3, 64, 64)
    found, asked = seen(drawn[0, 0]), Scene.parse(prompt)
    assert found is not None
    assert (found.colour, found.ground, found.size, found.place) == (
        asked.colour,
        asked.ground,
        asked.size,
        asked.place,
    )


def test_its_tokenizer_knows_all_words_of_its_prompts(pipe: Any) -> None:
    words = {*COLOURS, *PLACES, *RADII, *SHAPES}
    ids = pipe.tokenizer([f"a {word}" for word in words])["input_ids"]
    assert {len(each) for each in ids} == {3}  # the beginning, "a" and the word
    assert len({each[2] for each in ids}) == len(words)
    assert pipe.tokenizer.unk_token_id not in {token for each in ids for token in each}


def test_its_readme_lists_its_files() -> None:
    there = {path.relative_to(FOLDER).as_posix(): path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    rows = re.findall(r"^\| `([\w./]+)` \|", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted([*rows, "README.md"]) == sorted(there)
    assert sum(there.values()) < 8_000_000


def test_the_quickstart_draws_with_it() -> None:
    recipe = load_recipe("quickstart-diffusion")
    source = open_source(recipe.model)
    assert isinstance(source, DenoiserSource)
    assert (source.folder, source.pipeline, source.component) == (FOLDER, "Lumina2Pipeline", "transformer")
    calibration, test = (
        {*map(Scene.parse, read_prompts(part.pictures))} for part in (recipe.calibration, recipe.evaluate)
    )
    assert (len(calibration), len(test)) == (24, 8)
    assert not calibration & test
