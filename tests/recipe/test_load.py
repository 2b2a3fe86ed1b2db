"""Recipes: every way to name one, and every mistake in one."""

from pathlib import Path
from typing import Any

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


def test_a_hub_recipe_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: org/name\nquantize: {types: [Q4_0]}", "utf-8")
    fetched: list[str] = []

    def fetch(repository: str) -> Path:
        fetched.append(repository)
        return path

    assert load_recipe("hub:me/name-GGUF", fetch=fetch).quantize.types == ("Q4_0",)
    assert fetched == ["me/name-GGUF"]
    path.write_text(yaml.safe_dump({"model": "org/name", "imatrix": {"file": "hub:org/name/imatrix.gguf"}}), "utf-8")
    assert load_recipe("hub:me/name-GGUF", fetch=fetch).imatrix.given == ("hub:org/name/imatrix.gguf",)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"calibration": {"sources": [{"file": "/etc/passwd"}]}}, "calibration.sources"),
        ({"evaluate": {"sources": [{"bundled": "test"}, {"file": "~/.ssh/id_rsa"}]}}, "evaluate.sources"),
        ({"calibration": {"sources": [{"dataset": "/etc"}]}}, "calibration.sources.0.dataset"),
        ({"calibration": {"sources": [{"dataset": "./texts"}]}}, "calibration.sources.0.dataset"),
        ({"evaluate": {"sources": [{"dataset": "~/texts"}]}}, "evaluate.sources.0.dataset"),
        ({"calibration": {"sources": [{"plugin": "my.py:Mine"}]}}, "unknown key calibration.sources.0.plugin"),
        ({"imatrix": {"file": "/etc/passwd"}}, "imatrix.file"),
        ({"imatrix": {"files": ["hub:org/name/imatrix.gguf", "/etc/passwd"]}}, "imatrix.files"),
        ({"imatrix": {"files": "/etc/passwd"}}, "imatrix.files"),
        ({"imatrix": {"file": "HUB:org/name/imatrix.gguf"}}, "imatrix.file"),
        ({"model": "/etc"}, "model.id"),
        ({"model": "./x"}, "model.id"),
        ({"model": "~"}, "model.id"),
        ({"model": "file.gguf/../../x"}, "model.id"),
        ({"model": {"id": "/etc"}}, "model.id"),
        ({"model": {"folder": "org/name"}}, "model.folder"),
        ({"model": {"file": "a.gguf"}}, "model.file"),
        ({"model": {"id": "org/name", "allow_pickle": True}}, "model.allow_pickle"),
        ({"model": ["org/name"]}, "model"),
        ({"publish": {"to": "alice/precious"}}, "publish.to"),
        ({"publish": {"private": True}}, "publish.private"),
        ({"publish": "alice/precious"}, "publish"),
    ],
)
def test_a_hub_recipe_does_not_reach_this_machine(part: dict[str, Any], field: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"model": "org/name", **part}), "utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe("hub:me/name-GGUF", fetch=lambda _: path)
    assert "hub:me/name-GGUF" in str(error.value)
    assert field in str(error.value)


def test_merged_keys_do_not_hide_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {id: org/name}\nimatrix: {<<: {file: /etc/passwd}}", "utf-8")
    with pytest.raises(RecipeError):
        load_recipe("hub:me/name-GGUF", fetch=lambda _: path)


def test_what_the_user_sets_is_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = "publish: {to: alice/precious}\nmodel: {folder: /theirs}\ncalibration: {sources: [{file: a.txt}]}"
    path.write_text(text, "utf-8")
    mine = ["publish.to=alice/precious", "model={folder: /mine}", "calibration.sources=[{file: a.txt}]"]
    recipe = load_recipe("hub:me/name-GGUF", mine, fetch=lambda _: path)
    assert (recipe.publish.to, recipe.model.folder) == ("alice/precious", "/mine")
    for left_out in range(3):
        with pytest.raises(RecipeError, match="cannot be run as it is"):
            load_recipe("hub:me/name-GGUF", mine[:left_out] + mine[left_out + 1 :], fetch=lambda _: path)


def test_a_name_on_the_hub_is_not_a_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "recipe.yaml").write_text("model: org/name", "utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("hub:me/name-GGUF", fetch=lambda _: tmp_path / "recipe.yaml")
    assert (recipe.model.id, recipe.model.folder) == ("org/name", None)


def test_recipes_are_mappings() -> None:
    with pytest.raises(RecipeError, match="mapping"):
        parse_recipe(["model"])
