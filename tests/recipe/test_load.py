"""Recipes: every way to name one, and every mistake in one."""

from pathlib import Path

import pytest
import yaml

from hubquant.errors import RecipeError
from hubquant.recipe import dump_recipe, load_recipe, parse_recipe


def test_a_model_id_is_a_recipe() -> None:
    recipe = load_recipe("Qwen/Qwen3-0.6B")
    assert recipe.model.id == "Qwen/Qwen3-0.6B"
    assert "Q4_K_M" in recipe.quantize.types


def test_a_folder_is_a_recipe(tmp_path: Path) -> None:
    assert load_recipe(str(tmp_path)).model.folder == str(tmp_path)


def test_the_quickstart_is_packaged() -> None:
    assert load_recipe("quickstart").model.bundled == "demo"


def test_the_default_recipe_states_the_defaults() -> None:
    assert load_recipe("default", ["model=org/name"]) == load_recipe("org/name")


def test_overrides_reach_any_field() -> None:
    recipe = load_recipe("org/name", ["quantize.types=[Q4_0, Q8_0]", "model.revision=v2", "calibration.chunks=3"])
    assert recipe.quantize.types == ("Q4_0", "Q8_0")
    assert recipe.model.revision == "v2"
    assert recipe.model.id == "org/name"
    assert recipe.calibration.chunks == 3


def test_a_dumped_recipe_loads_as_itself(tmp_path: Path) -> None:
    recipe = load_recipe(
        "org/name", ["quantize.rules=[{match: ffn_down, type: Q6_K}]", "gates.kld_mean={Q4_K_M: 0.05}"]
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), "utf-8")
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("overrides", "what", "hint"),
    [
        (["quantize.typs=[Q8_0]"], "unknown key quantize.typs", "types"),
        (["calibration.sources=[{fil: a.txt}]"], "unknown key calibration.sources.0.fil", "file"),
        (["quantise={}"], "unknown key quantise", "quantize"),
        (["quantize.mode=fast"], "quantize.mode", ""),
        (["calibration.chunks=many"], "calibration.chunks", ""),
        (["calibration.chunks=0"], "calibration.chunks", ""),
        (["version=2"], "version", ""),
        (["calibration.sources=[{file: a.txt, dataset: b/c}]"], "exactly one of", ""),
        (["quantize"], "not an override", "--set"),
        (["quantize.mode=exact", "quantize.mode.x=1"], "no keys below", ""),
    ],
)
def test_mistakes_are_named(overrides: list[str], what: str, hint: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("org/name", overrides)
    assert what in str(error.value)
    assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['true']",
        "model: !custom x",
        "a: &x 1\nmodel: *x",
        "model: a/b\nmodel: c/d",
        "model: [",
        "- a",
        "model: {id: a/b}\n\tx: 1",
        "",
    ],
)
def test_yaml_that_is_no_recipe(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError):
        load_recipe(str(path))


def test_recipe_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(str(tmp_path / "none.yaml"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("model: café/x".encode("latin-1"))
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(str(latin))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RecipeError):
        load_recipe(str(tmp_path / "folder.yaml"))


def test_a_hub_recipe_is_fetched_and_may_not_read_local_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: org/name\nquantize: {types: [Q4_0]}", "utf-8")
    fetched: list[str] = []

    def fetch(repository: str) -> Path:
        fetched.append(repository)
        return path

    assert load_recipe("hub:me/name-GGUF", fetch=fetch).quantize.types == ("Q4_0",)
    assert fetched == ["me/name-GGUF"]
    for part in (
        {"calibration": {"sources": [{"file": "/etc/passwd"}]}},
        {"imatrix": {"file": "/etc/passwd"}},
        {"imatrix": {"files": ["hub:org/name/imatrix.gguf", "/etc/passwd"]}},
    ):
        path.write_text(yaml.safe_dump({"model": "org/name", **part}), "utf-8")
        with pytest.raises(RecipeError, match="author's machine: /etc/passwd"):
            load_recipe("hub:me/name-GGUF", fetch=fetch)
    path.write_text(yaml.safe_dump({"model": "org/name", "imatrix": {"file": "hub:org/name/imatrix.gguf"}}), "utf-8")
    assert load_recipe("hub:me/name-GGUF", fetch=fetch).imatrix.given == ("hub:org/name/imatrix.gguf",)


def test_recipes_are_mappings() -> None:
    with pytest.raises(RecipeError, match="mapping"):
        parse_recipe(["model"])
