"""docs/recipe.md, and what it is made of: the schema's descriptions and examples that are right."""

from __future__ import annotations

import inspect

import pytest
import yaml
from pydantic import BaseModel

from hubquant.recipe import Recipe, parse_recipe, pictures, schema
from scripts.recipe_document import DOCUMENT, EXAMPLES, document, examples

MODELS = [each for room in (schema, pictures) for each in vars(room).values() if inspect.isclass(each)]
SETTINGS = list(dict.fromkeys(each for each in MODELS if issubclass(each, schema.Frozen) and each.model_fields))


def test_the_document_is_that_of_the_schema() -> None:
    assert DOCUMENT.read_text("utf-8") == document(), "run: python -m scripts.recipe_document"


@pytest.mark.parametrize("model", SETTINGS)
def test_every_field_says_what_it_means(model: type[BaseModel]) -> None:
    assert [name for name, info in model.model_fields.items() if not info.description] == []
    assert model is Recipe or (model.__doc__ or "").strip()


@pytest.mark.parametrize("example", yaml.safe_load_all(EXAMPLES))
def test_the_examples_are_recipes(example: object) -> None:
    parse_recipe(example)


def test_every_field_has_an_example_and_a_row() -> None:
    text = document()
    assert examples().keys() == set(SETTINGS)
    for model in SETTINGS:
        for name in model.model_fields:
            assert f"| `{name}` |" in text or (model is Recipe and f"## {name}\n" in text)
