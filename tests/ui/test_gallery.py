"""The recipes to start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.errors import RecipeError
from hubquant.ui.form import read_form
from hubquant.ui.gallery import NAMES, example

RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_recipe_is_an_example() -> None:
    assert NAMES.keys() == {path.stem for path in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_for_the_chosen_model_and_published_nowhere(name: str) -> None:
    text = example(name, "org/name@v1")
    form = read_form(text)
    assert (form.model, form.to) == ("org/name@v1", "")
    assert text.startswith((RECIPES / f"{name}.yaml").read_text("utf-8").splitlines()[0])


@pytest.mark.parametrize("name", ["../secret", "", "README"])
def test_nothing_else_is_one(name: str) -> None:
    with pytest.raises(RecipeError):
        example(name, "demo")
