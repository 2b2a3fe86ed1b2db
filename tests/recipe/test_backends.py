"""Formats by name, and recipes from before there were any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubquant.errors import RecipeError
from hubquant.recipe import dump_recipe, load_recipe

EARLIER = Path(__file__).parent / "of_0_1_0"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_recipes_of_earlier_versions_mean_what_they_meant(name: str) -> None:
    found = load_recipe(str(EARLIER / f"{name}.yaml"))
    assert _of(EXPECTED[name], found.model_dump(mode="json")) == EXPECTED[name]
    newer = {path for path in _paths(found.model_dump(exclude_defaults=True)) if path not in _paths(EXPECTED[name])}
    assert not newer


def _of(fields: Any, values: Any) -> Any:
    """``values`` of the fields that there were."""
    if isinstance(fields, list) and isinstance(values, list) and len(fields) == len(values):
        return [_of(field, value) for field, value in zip(fields, values, strict=True)]
    if not isinstance(fields, dict) or not isinstance(values, dict):
        return values
    return {name: _of(field, values[name]) for name, field in fields.items()}


def _paths(values: Any, above: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {above}
    return {path for name, value in values.items() for path in _paths(value, f"{above}.{name}")}


def test_a_bare_type_is_gguf_s(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: org/name\nquantize: {types: ['gguf:Q4_K_M', Q8_0], gguf: {pure: true, output_tensor: Q6_K}}"
    )
    recipe = load_recipe(str(path))
    assert recipe.quantize.types == ("Q4_K_M", "Q8_0")
    assert (recipe.quantize.pure, recipe.quantize.output_tensor) == (True, "Q6_K")
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe


def test_settings_of_a_format_can_be_overridden() -> None:
    assert load_recipe("org/name", ["quantize.gguf.pure=true"]).quantize.pure


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("quantize.types=[nf5:x]", "no format nf5"),
        ("quantize.gguf.mode=exact", "gguf.mode is no setting of GGUF alone"),
        ("quantize.gguf=3", "gguf holds settings by name"),
        ("quantize={pure: true, gguf: {pure: false}}", "contradict each other"),
    ],
)
def test_mistakes_are_told(override: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what):
        load_recipe("org/name", [override])
