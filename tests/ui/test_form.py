"""A recipe's text and the form beside it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hubquant.errors import RecipeError
from hubquant.recipe import parse_recipe
from hubquant.ui.form import Form, read_form, write_form

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
MINIMAL = "model: {bundled: demo}\n"

names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}/[a-z][a-z0-9._-]{0,8}", fullmatch=True).filter(
    lambda name: not name.endswith(".git") and name.partition("/")[0] not in ("models", "datasets", "spaces", "papers")
)
words = st.from_regex(r"[A-Za-z0-9_.: #'-]{1,9}", fullmatch=True).map(str.strip).filter(bool)
forms = st.builds(
    Form,
    model=st.sampled_from(["demo", "Qwen/Qwen3-0.6B", "org/name@v1.0"]),
    types=st.lists(st.sampled_from(["Q8_0", "Q4_K_M", "IQ2_XXS", "Q2_K"]), min_size=1, unique=True).map(tuple),
    mode=st.sampled_from(["best", "exact"]),
    calibration=st.sampled_from(["bundled", "dataset", "file", "none"]),
    dataset=names,
    config=words,
    split=words,
    field=words,
    file=words,
    chat_template=st.booleans(),
    chunks=st.integers(1, 10_000),
    evaluate=st.booleans(),
    evaluate_chunks=st.integers(1, 10_000),
    to=st.one_of(st.just(""), names),
    private=st.booleans(),
)


def as_shown(form: Form) -> Form:
    """Without what belongs to another kind of calibration than the chosen one."""
    hidden = {"bundled": ("dataset", "config", "split", "field", "file", "chat_template"), "none": (), "recipe": ()}
    hidden["none"] = hidden["recipe"] = hidden["bundled"]
    hidden |= {"dataset": ("file",), "file": ("dataset", "config", "split")}
    defaults = {field.name: field.default for field in fields(Form)}
    return replace(form, **{name: defaults[name] for name in hidden[form.calibration]})


@settings(max_examples=25)
@given(forms)
def test_what_the_form_writes_it_reads_again(form: Form) -> None:
    assert read_form(write_form(MINIMAL, form)) == as_shown(form)


@settings(max_examples=25)
@given(forms, st.sampled_from(RECIPES))
def test_what_the_form_does_not_show_stays(form: Form, recipe: Path) -> None:
    text = recipe.read_text("utf-8")
    before, after = yaml.safe_load(text), yaml.safe_load(write_form(text, form))
    assert read_form(yaml.safe_dump(after)) == as_shown(form)
    hidden = ("chunk_size", "seed", "rules", "sources", "process_output", "offload", "max_memory", "shard_size")
    for section in ("evaluate", "gates", "quantize", "publish", "convert"):
        for name in hidden:
            assert before.get(section, {}).get(name) == after.get(section, {}).get(name), (section, name)
    assert before.get("gates") == after.get("gates")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_an_unchanged_form_leaves_the_text_alone(recipe: Path) -> None:
    text = recipe.read_text("utf-8")
    assert write_form(text, read_form(text)) == text


@settings(max_examples=25)
@given(forms, forms)
def test_the_way_to_a_form_does_not_matter(first: Form, second: Form) -> None:
    over = write_form(write_form(MINIMAL, first), second)
    assert (
        parse_recipe(yaml.safe_load(over)).quantize
        == parse_recipe(yaml.safe_load(write_form(MINIMAL, second))).quantize
    )
    assert read_form(over) == as_shown(second)


def test_comments_of_other_sections_stay() -> None:
    text = (
        "# what it is for\nmodel: {bundled: demo}  # small\n\n# the data\ncalibration:\n  chunks: 4  # few\n\n"
        "# the files\nquantize:\n  types: [Q8_0]\n  rules: [{match: ffn_down, type: Q6_K}]\n# the end\n"
    )
    found = write_form(text, replace(read_form(text), types=("Q8_0", "Q4_K_M")))
    assert found == text.replace("[Q8_0]", "[Q8_0, Q4_K_M]").replace(
        "  rules: [{match", "  rules:\n  - {match"
    ).replace("Q6_K}]", "Q6_K}")


def test_named_types_keep_their_settings() -> None:
    text = "model: a/b\nquantize:\n  types: [Q8_0, {name: Q4_K_L, type: Q4_K_M, output_tensor: Q8_0}]\n"
    form = read_form(text)
    assert form.types == ("Q8_0", "Q4_K_L")
    after = yaml.safe_load(write_form(text, replace(form, types=("Q4_K_L", "Q2_K"))))
    assert after["quantize"]["types"] == [{"name": "Q4_K_L", "type": "Q4_K_M", "output_tensor": "Q8_0"}, "Q2_K"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a/b\nquantise: {}", "quantise"),
        ("model: a/b\nquantize: {typs: [Q8_0]}", "typs"),
        ("model: !!python/object/apply:os.system [id]", "tag"),
        ("model: &a b\nquantize: *a", "alias"),
        ("", "empty"),
        ("- 1", "not a recipe"),
        ("model: [", "not YAML"),
        ("model: a/b\n# " + "x" * (1 << 20), "too large"),
        ("model: a/b\nimatrix: {skip: true, file: x.gguf}", "skip"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_reason(text: str, message: str) -> None:
    for use in (read_form, lambda given: write_form(given, Form())):
        with pytest.raises(RecipeError, match=message):
            use(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": ()}, "no type"),
        ({"model": " "}, "no model"),
        ({"calibration": "dataset", "dataset": "<b>x</b>"}, "Hub id"),
        ({"chunks": 0}, "chunks"),
    ],
)
def test_a_form_that_makes_no_recipe_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        write_form(MINIMAL, replace(Form(), **change))
