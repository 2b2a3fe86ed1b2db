"""A matrix that is named in somebody's recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubquant.errors import OutputError
from hubquant.recipe import load_recipe
from hubquant.recipe.rewrite import name_matrix

PLAIN = "# mine\nmodel: org/model  # the one\nquantize:\n  types: [Q4_K_M]\n"


@pytest.mark.parametrize("text", [PLAIN, PLAIN.rstrip(), PLAIN + "\n\n"])
def test_a_line_more_and_every_other_one_as_it_was(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    recipe = load_recipe(str(path))
    for _ in range(2):
        assert name_matrix(path, recipe, "a: b.gguf", tmp_path / "other.yaml") == path
        assert path.read_text() == f"{text.rstrip()}\nimatrix: {{file: 'a: b.gguf'}}\n"
    assert load_recipe(str(path)).imatrix.file == "a: b.gguf"
    assert [each.name for each in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("text", ["{model: org/model}\n", "model: org/model\nimatrix: {process_output: true}\n"])
def test_what_a_line_cannot_say_is_written_beside(text: str, tmp_path: Path) -> None:
    path, beside = tmp_path / "mine.yaml", tmp_path / "other.yaml"
    path.write_text(text)
    recipe = load_recipe(str(path))
    for _ in range(2):
        assert name_matrix(path, recipe, "m.gguf", beside) == beside
    assert path.read_text() == text
    written = load_recipe(str(beside))
    assert written.imatrix.file == "m.gguf"
    assert written.imatrix.process_output == recipe.imatrix.process_output
    beside.write_text(text)
    with pytest.raises(OutputError, match=r"other\.yaml is not one of hubquant's"):
        name_matrix(path, recipe, "m.gguf", beside)


def test_a_model_gets_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("org/model")
    assert name_matrix(None, recipe, "m.gguf", tmp_path / "model.yaml") == tmp_path / "model.yaml"
    assert load_recipe(str(tmp_path / "model.yaml")).model.id == "org/model"
